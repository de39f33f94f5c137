//! [`open`]: from a URI to a store that answered.

use std::sync::Arc;

use crate::{IoRuntime, Result};

use super::{
    RemoteOptions, RemoteStore, memory::MemoryStore, object::ObjectStore, services, uri::StoreUri,
};

/// Opens the store that `uri` names and makes one request to find out that it answers. Blocks; not to be called on one
/// of `runtime`'s own threads.
///
/// | URI | what it is | cargo feature |
/// | --- | --- | --- |
/// | `file:///absolute/path` | a directory of a local or mounted disk; need not exist yet | `services-fs` |
/// | `memory://name`, `memory://` | a map of this process: shared by name, or of this store alone | `services-memory` |
/// | `s3://bucket/prefix?endpoint=…&region=…&virtual_host_style=true` | S3 and what speaks it; all parameters optional | `services-s3` |
/// | `hdfs://host:port/prefix`, `hdfs://nameservice/prefix` | HDFS | `services-hdfs-native` |
/// | `webhdfs://host:port/prefix` | HDFS over HTTP; can be read only | `services-webhdfs` |
/// | `gs://bucket/prefix` | Google Cloud Storage | `services-gcs` |
/// | `az://container/prefix?account=…` | Azure Blob Storage | `services-azblob` |
///
/// Credentials come from where each store's own tools take them, never from the URI: `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_PROFILE` and the AWS files, roles of the machine (unless an
/// endpoint is given); `HADOOP_USER_NAME`, `HADOOP_CONF_DIR`, the Kerberos cache; `GOOGLE_APPLICATION_CREDENTIALS`;
/// `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`. The AWS region is that of the URI, else `AWS_REGION`, else
/// `AWS_DEFAULT_REGION`, else `us-east-1` where an endpoint is given.
///
/// Reading needs the permission to read and to list, nothing else. A store may be used from any tokio runtime; it does
/// its work on `runtime` all the same (but for `memory://`), and keeps its threads alive.
///
/// # Errors
/// `InvalidInput` for a URI or options that cannot be right; `Unsupported` for a scheme that was not compiled in;
/// `PermissionDenied` for wrong or missing credentials; `NotFound` for a missing bucket; `Unavailable` or `TimedOut`
/// (both temporary) where nobody answers.
pub fn open(
    uri: &str,
    options: &RemoteOptions,
    runtime: &IoRuntime,
) -> Result<Arc<dyn RemoteStore>> {
    options.validate()?;
    let parsed = StoreUri::parse(uri)?;
    match parsed {
        StoreUri::Memory { .. } => open_memory(&parsed),
        StoreUri::File { .. } => open_file(parsed, runtime),
        StoreUri::Hdfs { .. } => open_hdfs(&parsed, options, runtime),
        _ => {
            let (options, this) = (options.clone(), runtime.clone());
            runtime.wait(async move {
                let (operator, commit) = services::operator(&parsed)?;
                let (uri, base) = (parsed.to_string(), parsed.base());
                let store = ObjectStore::new(uri, base, operator, commit, &options, &this);
                store.probe().await?;
                Ok(Arc::new(store) as Arc<dyn RemoteStore>)
            })
        }
    }
}

fn open_memory(uri: &StoreUri) -> Result<Arc<dyn RemoteStore>> {
    match uri {
        StoreUri::Memory { name } if cfg!(feature = "services-memory") => Ok(Arc::new(
            MemoryStore::open(uri.to_string(), name.as_deref()),
        )),
        _ => Err(services::not_compiled_in(uri)),
    }
}

fn open_file(uri: StoreUri, runtime: &IoRuntime) -> Result<Arc<dyn RemoteStore>> {
    let shown = uri.to_string();
    match uri {
        #[cfg(feature = "services-fs")]
        StoreUri::File { root } => {
            let env = Arc::new(crate::PosixEnv);
            let store = super::file::FileStore::open(env, root, shown, runtime)?;
            Ok(Arc::new(store))
        }
        uri => {
            let _ = (shown, runtime);
            Err(services::not_compiled_in(&uri))
        }
    }
}

fn open_hdfs(
    uri: &StoreUri,
    options: &RemoteOptions,
    runtime: &IoRuntime,
) -> Result<Arc<dyn RemoteStore>> {
    match uri {
        #[cfg(feature = "services-hdfs-native")]
        StoreUri::Hdfs { place } => {
            let store = super::hdfs::HdfsStore::new(uri.to_string(), place, options, runtime)?;
            let probed = store.clone();
            runtime.wait(async move { probed.probe().await })?;
            Ok(Arc::new(store))
        }
        uri => {
            let _ = (options, runtime);
            Err(services::not_compiled_in(uri))
        }
    }
}
