//! [`UploadRequests`]: how each HTTP request of an upload is sent, and sent again.
//!
//! OpenDAL sends the parts of an upload by itself, several at once, behind one `write` or `close` of its writer. That
//! writer is never called again after a failure: a `close` that fails may have dropped a last part shorter than 5 MiB, and a
//! second one would complete the object without it. So the requests are sent again here, below the writer, which sees
//! nothing but their last outcome. Each has its own deadline, its own timeout, and its own permit while it is on its way, so
//! that an upload holds none while it waits for its caller, for the next try, or for a store that is away.
//!
//! All these requests may be carried out twice: a part takes the place of its first sending. Only a completion whose answer
//! was lost is not found again, and then reported as unknown.

use std::{sync::Arc, time::Duration};

use futures::stream;
use http::{Request, Response, StatusCode};
use opendal::{
    Buffer, ErrorKind, HttpBody, HttpTransport, HttpTransporter, OperationContext,
    layers::ConcurrentLimitSemaphore,
    raw::{Layer, ServiceOperation, Servicer},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::remote::{error::cause, retries, retry::Retry};

/// Longest answer in which a code is looked for.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Codes in S3's errors that mean "again", whatever the status; a completion may fail with status 200.
const TEMPORARY_CODES: [&str; 6] = [
    "RequestTimeout",
    "InternalError",
    "OperationAborted",
    "SlowDown",
    "ServiceUnavailable",
    "TooManyRequests",
];

/// Requests that may be under way at once, shared by all that one store sends.
#[derive(Debug, Clone)]
pub(super) struct Permits(Arc<Semaphore>);

impl Permits {
    pub(super) fn new(permits: usize) -> Self {
        Permits(Arc::new(Semaphore::new(permits)))
    }
}

impl ConcurrentLimitSemaphore for Permits {
    type Permit = OwnedSemaphorePermit;

    async fn acquire(&self) -> OwnedSemaphorePermit {
        let permit = self.0.clone().acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }
}

/// A layer for the operator that uploads in parts.
#[derive(Debug, Clone)]
pub(super) struct UploadRequests {
    pub(super) permits: Permits,
    /// For each try, from its permit to the end of the answer.
    pub(super) timeout: Duration,
    pub(super) retry: Retry,
    /// The kind of store, to count retries by.
    pub(super) scheme: String,
}

impl Layer for UploadRequests {
    fn apply_context(&self, _: Servicer, inner: OperationContext) -> OperationContext {
        let transport = Transport {
            inner: inner.http_transport().clone(),
            requests: self.clone(),
        };
        inner.with_http_transport(HttpTransporter::new(transport))
    }
}

struct Transport {
    inner: HttpTransporter,
    requests: UploadRequests,
}

type Answer = opendal::Result<Response<Buffer>>;

impl Transport {
    async fn send(&self, request: Request<Buffer>) -> Answer {
        let timeout = self.requests.timeout;
        match tokio::time::timeout(timeout, self.inner.send(request)).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!("the request timed out: no answer within {timeout:?}");
                Err(opendal::Error::new(ErrorKind::Unexpected, message).set_temporary())
            }
        }
    }

    async fn send_with_permit(&self, request: Request<Buffer>) -> Answer {
        let _permit = self.requests.permits.acquire().await;
        self.send(request).await
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        // Any other asks for credentials, for which all who sign wait, also those that have a permit.
        let answer = if request.extensions().get::<ServiceOperation>().is_some() {
            let attempt = || self.send_with_permit(request.clone());
            let again = |_: &Answer| retries::count_for(&self.requests.scheme, "write");
            let retry = &self.requests.retry;
            retry.repeat(attempt, why_again, again).await?
        } else {
            self.send(request).await?
        };
        let (parts, body) = answer.into_parts();
        let len = body.len() as u64;
        let body = HttpBody::new(stream::iter([Ok(body)]), Some(len));
        Ok(Response::from_parts(parts, body))
    }
}

/// Why a request is worth another try, if it is.
fn why_again(answer: &Answer) -> Option<String> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(e) => return e.is_temporary().then(|| cause(e)),
    };
    let status = answer.status();
    let temporary = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    // 499: a proxy lost its client, and says so all the same.
    if temporary.contains(&status) || status.as_u16() == 499 {
        return Some(status.to_string());
    }
    let code = error_code(answer.body())?;
    TEMPORARY_CODES.contains(&&*code).then_some(code)
}

/// The code of S3's error document, if the body is one.
fn error_code(body: &Buffer) -> Option<String> {
    if body.is_empty() || body.len() > ERROR_BYTES_MAX {
        return None;
    }
    let body = body.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let error = &text[text.find("<Error")?..];
    let code = error.split_once("<Code>")?.1.split_once("</Code>")?.0;
    Some(code.trim().to_owned())
}
