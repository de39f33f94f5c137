//! Uploads against an S3 service in memory whose every request can be made to fail.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use opendal::{
    Buffer, HttpBody, HttpTransport, HttpTransporter, OperationContext, Operator,
    raw::{Layer, ServiceOperation, Servicer},
    services,
};

use super::*;
use crate::{ErrorKind, remote::RemoteOptions};

const PART: usize = 5 << 20;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It does not reach the store.
    Refused,
    /// It does its work, and the answer is lost.
    Lost,
    Busy,
    /// An error with status 200, as a completion may have.
    BusyInside,
    Denied,
    /// No answer ever comes.
    Hangs,
}

type Plan = Box<dyn Fn(&str, usize) -> Option<Fault> + Send + Sync>;

/// The service. A request is known by its operation, with the part's number, and by how often it was sent before.
struct FakeS3 {
    plan: Mutex<Plan>,
    state: Mutex<State>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

#[derive(Default)]
struct State {
    sent: HashMap<String, usize>,
    uploads: HashMap<String, BTreeMap<usize, Buffer>>,
    objects: HashMap<String, Bytes>,
    /// Copies are reported done and not made.
    copies_nothing: bool,
}

#[derive(Clone)]
struct Fake(Arc<FakeS3>);

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Layer for Fake {
    fn apply_context(&self, _: Servicer, inner: OperationContext) -> OperationContext {
        inner.with_http_transport(HttpTransporter::new(self.clone()))
    }
}

fn answer(status: u16, body: impl Into<Buffer>) -> Response<HttpBody> {
    let body = body.into();
    let len = body.len() as u64;
    let body = HttpBody::new(stream::iter([Ok(body)]), Some(len));
    let answer = Response::builder().status(status).header("ETag", "\"e\"");
    answer.header("Content-Length", len).body(body).unwrap()
}

/// The answer for `bytes=first-last`.
fn part_of(object: &Bytes, range: &str) -> Response<HttpBody> {
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let mut part = answer(206, object.slice(first..last + 1));
    let range = format!("bytes {first}-{last}/{}", object.len());
    part.headers_mut()
        .insert("Content-Range", range.parse().unwrap());
    part
}

fn error(status: u16, code: &str) -> Response<HttpBody> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    answer(status, body)
}

impl HttpTransport for Fake {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let this = &self.0;
        let under_way = this.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        this.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let answer = self.carried_out(request).await;
        this.under_way.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

impl Fake {
    fn new() -> Self {
        Fake(Arc::new(FakeS3 {
            plan: Mutex::new(Box::new(|_, _| None)),
            state: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
        }))
    }

    fn set_plan(&self, plan: impl Fn(&str, usize) -> Option<Fault> + Send + Sync + 'static) {
        *self.0.plan.lock().unwrap() = Box::new(plan);
        self.0.state.lock().unwrap().sent.clear();
    }

    /// How often a request was sent.
    fn sent(&self, operation: &str) -> usize {
        let state = self.0.state.lock().unwrap();
        state.sent.get(operation).copied().unwrap_or(0)
    }

    fn object(&self, name: &str) -> Option<Bytes> {
        self.0.state.lock().unwrap().objects.get(name).cloned()
    }

    async fn carried_out(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let query: HashMap<String, String> =
            url::form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes())
                .into_owned()
                .collect();
        let part = query.get("partNumber");
        let operation = request.extensions().get::<ServiceOperation>().unwrap().0;
        let operation = format!("{operation}{}", part.map_or("", |part| part));
        let fault = {
            let mut state = self.0.state.lock().unwrap();
            let sent = state.sent.entry(operation.clone()).or_default();
            *sent += 1;
            (self.0.plan.lock().unwrap())(&operation, *sent - 1)
        };
        let broken = || {
            Err(opendal::Error::new(opendal::ErrorKind::Unexpected, "broken pipe").set_temporary())
        };
        match fault {
            Some(Fault::Refused) => return broken(),
            Some(Fault::Busy) => return Ok(error(503, "SlowDown")),
            Some(Fault::BusyInside) => return Ok(error(200, "InternalError")),
            Some(Fault::Denied) => return Ok(error(403, "AccessDenied")),
            Some(Fault::Hangs) => return std::future::pending().await,
            Some(Fault::Lost) | None => {}
        }
        let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let done = self
            .0
            .state
            .lock()
            .unwrap()
            .serve(&operation, name, &query, request);
        match fault {
            Some(Fault::Lost) => broken(),
            _ => Ok(done),
        }
    }
}

impl State {
    fn serve(
        &mut self,
        operation: &str,
        name: String,
        query: &HashMap<String, String>,
        request: Request<Buffer>,
    ) -> Response<HttpBody> {
        match (operation, query.get("uploadId")) {
            ("CreateMultipartUpload", _) => {
                let id = format!("id{}", self.sent.values().sum::<usize>());
                self.uploads.insert(id.clone(), BTreeMap::new());
                let answered = format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                answer(200, answered)
            }
            ("CompleteMultipartUpload", Some(id)) => {
                let Some(parts) = self.uploads.remove(id) else {
                    return error(404, "NoSuchUpload");
                };
                // The parts that the request names, and no others.
                let wanted = request.into_body().to_bytes();
                let wanted = String::from_utf8_lossy(&wanted).into_owned();
                let wanted = wanted.split("<PartNumber>").skip(1).map(|part| {
                    let number = part.split('<').next().unwrap();
                    number.parse::<usize>().unwrap()
                });
                let whole: Buffer = wanted.flat_map(|part| parts[&part].clone()).collect();
                self.objects.insert(name, whole.to_bytes());
                answer(
                    200,
                    "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>",
                )
            }
            ("AbortMultipartUpload", Some(id)) => match self.uploads.remove(id) {
                Some(_) => answer(204, ""),
                None => error(404, "NoSuchUpload"),
            },
            (_, Some(id)) => {
                let Some(parts) = self.uploads.get_mut(id) else {
                    return error(404, "NoSuchUpload");
                };
                let number = query["partNumber"].parse().unwrap();
                parts.insert(number, request.into_body());
                answer(200, "")
            }
            ("CopyObject", _) => {
                let from = request.headers()["x-amz-copy-source"].to_str().unwrap();
                let from = from.rsplit('/').next().unwrap();
                let Some(object) = self.objects.get(from).cloned() else {
                    return error(404, "NoSuchKey");
                };
                if !self.copies_nothing {
                    self.objects.insert(name, object);
                }
                answer(200, "<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
            }
            ("ListObjectsV2", _) => {
                let mut body = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
                for (name, object) in &self.objects {
                    body += &format!(
                        "<Contents><Key>{name}</Key><LastModified>2009-10-12T17:50:30.500Z</LastModified><Size>{}</Size></Contents>",
                        object.len()
                    );
                }
                answer(200, body + "</ListBucketResult>")
            }
            ("PutObject", None) => {
                self.objects.insert(name, request.into_body().to_bytes());
                answer(200, "")
            }
            _ => match self.objects.get(&name) {
                Some(object) => match request.headers().get("range") {
                    Some(range) => part_of(object, range.to_str().unwrap()),
                    None => answer(200, object.clone()),
                },
                None => error(404, "NoSuchKey"),
            },
        }
    }
}

fn s3() -> services::S3 {
    services::S3::default()
        .bucket("b")
        .endpoint("http://127.0.0.1:1")
        .region("us-east-1")
        .disable_config_load()
        .disable_ec2_metadata()
}

fn options(deadline: Duration) -> RemoteOptions {
    RemoteOptions {
        request_timeout: Duration::from_millis(200),
        retry_deadline: deadline,
        retry_min_delay: Duration::from_millis(1),
        retry_max_delay: Duration::from_millis(5),
        upload_part_bytes: PART,
        ..RemoteOptions::default()
    }
}

fn store(fake: &Fake, options: &RemoteOptions, runtime: &IoRuntime) -> ObjectStore {
    let s3 = s3().access_key_id("k").secret_access_key("s");
    let bare = Operator::new(s3).unwrap().layer(fake.clone());
    let (uri, base) = ("s3://b".to_owned(), "s3://b".to_owned());
    ObjectStore::new(
        uri,
        base,
        bare,
        CommitPrimitive::ConditionalPut,
        options,
        runtime,
    )
}

fn store_copying_up_to(
    fake: &Fake,
    options: &RemoteOptions,
    runtime: &IoRuntime,
    max: Option<u64>,
) -> ObjectStore {
    let mut store = store(fake, options, runtime);
    let requests = Arc::get_mut(&mut store.requests).expect("nobody else has it yet");
    requests.copy_bytes_max = max;
    store
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// No two parts of it are equal.
fn whole(len: usize) -> Bytes {
    let bytes: Vec<u8> = (0..len).map(|at| (at / 50_000) as u8).collect();
    bytes.into()
}

const PATIENT: Duration = Duration::from_secs(20);
const BRIEF: Duration = Duration::from_millis(30);

/// The object is whole or the upload failed: whichever request fails, however often, in whatever way. The last part is short,
/// and then as long as the others. One part at a time is what fails while the writer is being closed.
#[test]
fn no_part_is_ever_lost() {
    let runtime = IoRuntime::new(2).unwrap();
    let lens = [3 * PART + 1000, 3 * PART];
    for (len, parallel) in lens.into_iter().flat_map(|len| [(len, 1), (len, 4)]) {
        let whole = whole(len);
        let parts = len.div_ceil(PART);
        let mut requests = vec!["CreateMultipartUpload".to_owned()];
        requests.extend((1..=parts).map(|part| format!("UploadPart{part}")));
        requests.push("CompleteMultipartUpload".to_owned());
        for request in requests {
            for fault in [Fault::Refused, Fault::Lost, Fault::Busy, Fault::BusyInside] {
                for times in [1, 2, 5, usize::MAX] {
                    if fault == Fault::BusyInside && !request.starts_with("Complete") {
                        continue;
                    }
                    let case = format!(
                        "{len} bytes, {parallel} at once, {request} {fault:?} {times} times"
                    );
                    let fake = Fake::new();
                    let failing = request.clone();
                    fake.set_plan(move |operation, sent| {
                        (operation == failing && sent < times).then_some(fault)
                    });
                    let deadline = if times == usize::MAX { BRIEF } else { PATIENT };
                    let options = RemoteOptions {
                        upload_parallel_parts: parallel,
                        ..options(deadline)
                    };
                    let store = store(&fake, &options, &runtime);
                    let bytes = whole.clone();
                    let put = runtime.wait(async move { store.put(&key("a"), bytes).await });
                    let found = fake.object("a");
                    match put {
                        Ok(()) => {
                            assert!(times < usize::MAX, "{case}");
                            assert!(found.as_ref() == Some(&whole), "{case}");
                            assert!(fake.sent(&request) > times, "{case}");
                        }
                        Err(e) => {
                            // A completion that did its work is not found when it is sent again.
                            let unknown = request.starts_with("Complete") && fault == Fault::Lost;
                            assert!(times == usize::MAX || unknown, "{case}: {e}");
                            assert!(e.is_temporary(), "{case}: {e}");
                            assert!(found.is_none_or(|found| found == whole), "{case}");
                        }
                    }
                }
            }
        }
    }
}

/// All requests fail now and then: several parts at once, each some times.
#[test]
fn many_failures_at_once() {
    let runtime = IoRuntime::new(2).unwrap();
    let whole = whole(8 * PART + 1);
    for parallel in [1, 4, 16] {
        let fake = Fake::new();
        fake.set_plan(|operation, sent| match sent {
            0 => Some(Fault::Refused),
            1 if !operation.starts_with("Complete") => Some(Fault::Lost),
            2..4 => Some(Fault::Busy),
            _ => None,
        });
        let options = RemoteOptions {
            upload_parallel_parts: parallel,
            ..options(PATIENT)
        };
        let store = store(&fake, &options, &runtime);
        let mut rest = whole.clone();
        let written = async move {
            let mut writer = store.writer(&key("a")).await?;
            while !rest.is_empty() {
                writer
                    .write(rest.split_to(rest.len().min(3_333_333)))
                    .await?;
            }
            writer.finish().await
        };
        runtime.wait(written).unwrap();
        assert!(fake.object("a").as_ref() == Some(&whole), "{parallel}");
    }
}

/// A store that hangs fails an upload at the deadline, and a refusal at once.
#[test]
fn parts_are_tried_until_the_deadline() {
    let runtime = IoRuntime::new(2).unwrap();
    for (fault, kind, at_least) in [
        (Fault::Hangs, ErrorKind::TimedOut, 600),
        (Fault::Denied, ErrorKind::PermissionDenied, 0),
    ] {
        let fake = Fake::new();
        fake.set_plan(move |operation, _| operation.starts_with("UploadPart").then_some(fault));
        let store = store(&fake, &options(Duration::from_millis(600)), &runtime);
        let begun = Instant::now();
        let put = async move { store.put(&key("a"), whole(6 * PART)).await };
        let error = runtime.wait(put).unwrap_err();
        let took = begun.elapsed().as_millis();
        assert_eq!(error.kind(), kind, "{error:?}");
        // The deadline, and the timeout of the last try, on a busy machine.
        assert!(
            (at_least..at_least + 5000).contains(&took),
            "{took} ms: {error}"
        );
    }
}

/// Requests under way are counted one by one, and an upload that waits to be aborted is none.
#[test]
fn an_upload_holds_no_permit_while_it_waits() {
    let runtime = IoRuntime::new(2).unwrap();
    for permits in [1, 2] {
        let fake = Fake::new();
        let options = RemoteOptions {
            max_concurrent_requests: permits,
            ..options(BRIEF)
        };
        let store = store(&fake, &options, &runtime);
        let work = async move {
            store.put(&key("small"), "x".into()).await?;
            store.put(&key("whole"), whole(6 * PART)).await?;
            let most = fake.0.most_under_way.load(Ordering::SeqCst);
            assert_eq!(most, permits);

            // Begun, and waiting for its caller.
            let mut writer = store.writer(&key("open")).await?;
            writer.write(whole(3 * PART)).await?;
            let small = key("small");
            let read = store.get(&small);
            let read = tokio::time::timeout(Duration::from_secs(5), read).await;
            assert_eq!(read.expect("the writer holds a permit")?, "x");

            // Failed, and waiting for the store to take the abort.
            fake.set_plan(|operation, _| match operation {
                "CompleteMultipartUpload" => Some(Fault::Denied),
                "AbortMultipartUpload" => Some(Fault::Busy),
                _ => None,
            });
            writer.finish().await.unwrap_err();
            for _ in 0..20 {
                let read = store.get(&small);
                let read = tokio::time::timeout(Duration::from_secs(5), read).await;
                assert_eq!(read.expect("the clean-up holds a permit")?, "x");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(fake.sent("AbortMultipartUpload") > 0);
            Ok(())
        };
        runtime.wait(work).unwrap();
    }
}

/// An abort that is not allowed is tried once.
#[test]
fn clean_up_ends_where_it_is_not_allowed() {
    let runtime = IoRuntime::new(2).unwrap();
    let fake = Fake::new();
    fake.set_plan(|operation, _| match operation {
        "UploadPart2" | "AbortMultipartUpload" => Some(Fault::Denied),
        _ => None,
    });
    let store = store(&fake, &options(BRIEF), &runtime);
    let work = async move {
        let put = store.put(&key("a"), whole(3 * PART)).await;
        assert_eq!(put.unwrap_err().kind(), ErrorKind::PermissionDenied);
        // The second pause would begin after one second.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(fake.sent("AbortMultipartUpload"), 1);
        Ok(())
    };
    runtime.wait(work).unwrap();
}

/// Missing credentials are told at open; once a store is open, they are away for a moment.
#[test]
fn credentials_that_cannot_be_loaded() {
    let runtime = IoRuntime::new(2).unwrap();
    let bare = Operator::new(s3()).unwrap().layer(Fake::new());
    let (uri, base) = ("s3://b".to_owned(), "s3://b".to_owned());
    let commit = CommitPrimitive::ConditionalPut;
    let store = ObjectStore::new(uri, base, bare, commit, &options(BRIEF), &runtime);
    let work = async move {
        let error = store.probe().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let error = store.get(&key("a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let error = store.put(&key("a"), whole(3 * PART)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        Ok(())
    };
    runtime.wait(work).unwrap();
}

/// A copy is there whole or it failed: whichever request fails, however often, in whatever way.
#[test]
fn copies_in_the_store() {
    let runtime = IoRuntime::new(2).unwrap();
    let bytes = whole(123_456);
    let faults = [
        (Fault::Refused, true),
        (Fault::Lost, true),
        (Fault::Busy, true),
        (Fault::BusyInside, true),
        (Fault::Hangs, true),
        (Fault::Denied, false),
    ];
    for (fault, temporary) in faults {
        for times in [1, usize::MAX] {
            let case = format!("{fault:?} {times} times");
            let fake = Fake::new();
            fake.set_plan(move |operation, sent| {
                (operation == "CopyObject" && sent < times).then_some(fault)
            });
            let deadline = if times == 1 { PATIENT } else { BRIEF };
            let store = store(&fake, &options(deadline), &runtime);
            let put = bytes.clone();
            let copied = runtime.wait(async move {
                store.put(&key("a"), put).await?;
                store.copy(&key("a"), &key("b"), 123_456).await
            });
            if times == 1 && temporary {
                let expected = Copied::without_bytes(CopyKind::ServerSide);
                assert_eq!(copied.unwrap(), expected, "{case}");
                assert_eq!(fake.sent("CopyObject"), 2, "{case}");
                assert_eq!(fake.sent("HeadObject"), 2, "{case}");
                assert!(fake.object("b").unwrap() == bytes, "{case}");
            } else {
                let error = copied.unwrap_err();
                assert_eq!(error.is_temporary(), temporary, "{case}: {error}");
                assert_eq!(error.operation(), "copy", "{case}");
                assert!(fake.object("b").is_none_or(|b| b == bytes), "{case}");
            }
        }
    }
}

/// Three requests; a store that reports a copy it did not make is found out; and of what is not to be copied nothing is.
#[test]
fn copies_are_looked_for() {
    let runtime = IoRuntime::new(2).unwrap();
    let fake = Fake::new();
    let store = store(&fake, &options(BRIEF), &runtime);
    assert_eq!(store.capabilities().copy, CopyKind::ServerSide);
    let work = async move {
        store.put(&key("a"), "0123456789".into()).await?;
        store.put(&key("b"), "before".into()).await?;
        let copy = async |from, to, len| store.copy(&key(from), &key(to), len).await;
        for (from, len, kind) in [
            ("a", 9, ErrorKind::Corruption),
            ("a", 11, ErrorKind::Corruption),
            ("gone", 10, ErrorKind::NotFound),
            ("b", 6, ErrorKind::InvalidInput),
        ] {
            let error = copy(from, "b", len).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.path().ends_with(from), "{error}");
        }
        assert_eq!(fake.sent("CopyObject"), 0);
        assert_eq!(fake.object("b").unwrap(), "before");

        fake.set_plan(|_, _| None);
        copy("a", "b", 10).await?;
        let sent = fake.0.state.lock().unwrap().sent.clone();
        assert_eq!(sent.values().sum::<usize>(), 3, "{sent:?}");

        fake.0.state.lock().unwrap().copies_nothing = true;
        store.put(&key("c"), "other".into()).await?;
        for to in ["c", "new"] {
            let error = copy("a", to, 10).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            assert!(error.path().ends_with(to), "{error}");
        }
        assert_eq!(fake.object("c").unwrap(), "other");
        Ok(())
    };
    runtime.wait(work).unwrap();
}

/// An object too long for one request goes through this process, whole and in order, and a failure leaves nothing.
#[test]
fn copies_that_the_store_does_not_make() {
    let runtime = IoRuntime::new(2).unwrap();
    let bytes = whole(3 * PART + 1000);
    let len = bytes.len() as u64;
    let fake = Fake::new();
    let (runtime_too, options) = (runtime.clone(), options(BRIEF));
    let work = async move {
        let store = store_copying_up_to(&fake, &options, &runtime_too, Some(len - 1));
        store.put(&key("a"), bytes.clone()).await?;
        let copied = store.copy(&key("a"), &key("b"), len).await?;
        assert_eq!(
            (copied.kind, copied.streamed_bytes),
            (CopyKind::Streamed, len)
        );
        assert_eq!(copied.xxh3, Some(xxhash_rust::xxh3::xxh3_128(&bytes)));
        assert!(fake.object("b").unwrap() == bytes);
        assert_eq!(fake.sent("CopyObject"), 0);

        fake.set_plan(|operation, sent| {
            (operation == "GetObject" && sent == 3).then_some(Fault::Denied)
        });
        let error = store.copy(&key("a"), &key("c"), len).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(fake.object("c").is_none());
        assert!(fake.0.state.lock().unwrap().uploads.is_empty());

        let store = store_copying_up_to(&fake, &options, &runtime_too, None);
        assert_eq!(store.capabilities().copy, CopyKind::Streamed);
        Ok(())
    };
    runtime.wait(work).unwrap();
}

/// The listing is the only request: nobody asks for each object's time.
#[test]
fn a_listing_tells_times() {
    let runtime = IoRuntime::new(2).unwrap();
    let (fake, runtime_too) = (Fake::new(), runtime.clone());
    let work = async move {
        let store = store(&fake, &options(BRIEF), &runtime_too);
        store.put(&key("a"), "1".into()).await?;
        store.put(&key("b"), "22".into()).await?;
        let requests = |fake: &Fake| fake.0.state.lock().unwrap().sent.values().sum::<usize>();
        let before = requests(&fake);
        let listed = store.list(None).await?;
        assert_eq!(requests(&fake) - before, 1);
        let put = std::time::UNIX_EPOCH + Duration::from_millis(1_255_369_830_500);
        let object = |name: &str, len| Listed::Object {
            name: name.into(),
            len,
            modified: Some(put),
        };
        assert_eq!(listed, [object("a", 1), object("b", 2)]);
        Ok(())
    };
    runtime.wait(work).unwrap();
}
