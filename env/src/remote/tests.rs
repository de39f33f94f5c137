//! The contract, on every store that can be had here and through every wrapper.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::{Effect, ErrorKind, FaultPlan, IoRuntime, Op, Result};

use super::{
    Capabilities, CopyKind, CountingStore, DelayStore, FaultStore, Key, LinkOptions, Listed,
    MemoryStore, ObjectWriter, RemoteOptions, RemoteStore, RequestKind, contract::check_store,
    open,
};

fn runtime() -> IoRuntime {
    IoRuntime::new(2).unwrap()
}

fn open_here(uri: &str, runtime: &IoRuntime) -> Arc<dyn RemoteStore> {
    open(uri, &RemoteOptions::default(), runtime).unwrap()
}

/// Checks a store on the I/O threads, and, where `elsewhere`, on another runtime as well.
fn check(store: Arc<dyn RemoteStore>, runtime: &IoRuntime) {
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    other.block_on(check_store(store.clone()));
    runtime
        .wait(async move {
            check_store(store).await;
            Ok(())
        })
        .unwrap();
}

#[test]
fn memory() {
    let runtime = runtime();
    check(open_here("memory://", &runtime), &runtime);
}

#[test]
fn memory_is_shared_by_name_only() {
    let runtime = runtime();
    let key = Key::new("a").unwrap();
    let put = |uri: &str| {
        let (store, key) = (open_here(uri, &runtime), key.clone());
        runtime.wait(async move { store.put_if_absent(&key, Bytes::new()).await })
    };
    put("memory://").unwrap();
    put("memory://").unwrap();
    put("memory://shared").unwrap();
    assert_eq!(
        put("memory://shared").unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
}

#[test]
fn file() {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not/yet/there");
    let store = open_here(&format!("file://{}", root.display()), &runtime);
    assert!(!root.exists(), "open writes nothing");
    check(store, &runtime);
    let left: Vec<_> = std::fs::read_dir(root.join(".lazurite-tmp"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn file_that_is_no_directory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let uri = format!("file://{}", file.path().display());
    let error = open(&uri, &RemoteOptions::default(), &runtime()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn servers() {
    let runtime = runtime();
    for variable in ["LAZURITE_TEST_S3_URI", "LAZURITE_TEST_HDFS_URI"] {
        match std::env::var(variable) {
            Ok(uri) => check(open_here(&uri, &runtime), &runtime),
            Err(_) => println!("skipped: {variable} is not set"),
        }
    }
}

/// What was written through HDFS is read through WebHDFS, which writes nothing.
#[cfg(all(feature = "services-webhdfs", feature = "services-hdfs-native"))]
#[test]
fn webhdfs_reads() {
    let (Ok(hdfs), Ok(web)) = (
        std::env::var("LAZURITE_TEST_HDFS_URI"),
        std::env::var("LAZURITE_TEST_WEBHDFS_URI"),
    ) else {
        println!("skipped: LAZURITE_TEST_HDFS_URI or LAZURITE_TEST_WEBHDFS_URI is not set");
        return;
    };
    let runtime = runtime();
    let (hdfs, web) = (open_here(&hdfs, &runtime), open_here(&web, &runtime));
    let read = async move {
        let (dir, key) = (Key::new("web")?, Key::new("web/a")?);
        hdfs.put(&key, "0123456789".into()).await?;
        assert_eq!(web.get(&key).await?, "0123456789");
        assert_eq!(web.get_range(&key, 3..5).await?, "34");
        assert_eq!(web.len(&key).await?, 10);
        assert_eq!(web.list(Some(&dir)).await?.len(), 1);
        for range in [5..11, 10..11, 20..30] {
            let error = web.get_range(&key, range).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error:?}");
        }
        for error in [
            web.put(&key, "".into()).await.unwrap_err(),
            web.put_if_absent(&key, "".into()).await.unwrap_err(),
            web.writer(&key).await.err().unwrap(),
            web.copy(&key, &Key::new("web/b")?, 10).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
        web.delete(&key).await?;
        web.delete(&key).await?;
        assert!(web.get(&key).await.unwrap_err().is_not_found());
        assert_eq!(web.list(Some(&key)).await?, []);
        Ok(())
    };
    runtime.wait(read).unwrap();
}

/// Opens the URI in `LAZURITE_TEST_OPEN_URI`, for [`wrong_credentials_are_told`] to see what comes of it.
#[test]
#[ignore = "run by another test, with its own environment"]
fn show_open_error() {
    let uri = std::env::var("LAZURITE_TEST_OPEN_URI").unwrap();
    let options = RemoteOptions {
        retry_deadline: Duration::ZERO,
        ..Default::default()
    };
    let error = open(&uri, &options, &runtime()).unwrap_err();
    println!("kind {:?}: {error}: {error:?}", error.kind());
}

#[test]
fn wrong_credentials_are_told() {
    let Ok(uri) = std::env::var("LAZURITE_TEST_S3_URI") else {
        println!("skipped: LAZURITE_TEST_S3_URI is not set");
        return;
    };
    let missing = uri.replacen("s3://", "s3://no-such-bucket-", 1);
    let good = std::env::var("AWS_SECRET_ACCESS_KEY").unwrap_or_default();
    for (uri, secret, expected) in [
        (&uri, "WrongSecret", "kind PermissionDenied"),
        (&uri, "", "kind PermissionDenied"),
        (&missing, good.as_str(), "kind NotFound"),
    ] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "remote::tests::show_open_error"])
            .args(["--ignored", "--nocapture"])
            .env("LAZURITE_TEST_OPEN_URI", uri)
            .env("AWS_SECRET_ACCESS_KEY", secret);
        let output = child.output().unwrap();
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{output}");
        assert!(output.contains(expected), "{expected}: {output}");
        assert!(secret.is_empty() || !output.contains(secret), "{output}");
    }
}

#[test]
fn through_every_wrapper() {
    let runtime = runtime();
    let link = LinkOptions {
        latency: Duration::from_micros(500),
        bytes_per_second: 2_000_000_000,
    };
    let store = open_here("memory://", &runtime);
    let store = Arc::new(FaultStore::new(store, FaultPlan::new()));
    let store = Arc::new(DelayStore::new(store, link).unwrap());
    let store = Arc::new(CountingStore::new(store));
    check(store.clone(), &runtime);
    let counts = store.snapshot();
    assert!(counts.of(RequestKind::PutIfAbsent) > 80 && counts.bytes_in > 40 << 20);
}

#[test]
fn schemes_that_nobody_serves() {
    let error = open("s4://b/a", &RemoteOptions::default(), &runtime()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    #[cfg(not(feature = "services-gcs"))]
    {
        let error = open("gs://b/a", &RemoteOptions::default(), &runtime()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("services-gcs"), "{error}");
    }
}

/// A dead server is a temporary error, told soon.
#[test]
fn nobody_answers() {
    let options = RemoteOptions {
        retry_deadline: Duration::from_millis(100),
        retry_min_delay: Duration::from_millis(1),
        ..Default::default()
    };
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .unwrap()
        .port();
    for uri in [
        format!("s3://bucket/a?endpoint=http://127.0.0.1:{port}"),
        format!("hdfs://127.0.0.1:{port}/a"),
    ] {
        if uri.starts_with("s3") && std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
            println!("skipped: no AWS credentials in the environment for {uri}");
            continue;
        }
        let start = std::time::Instant::now();
        let error = open(&uri, &options, &runtime()).unwrap_err();
        assert!(error.is_temporary(), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn faults_are_carried_out() -> Result<()> {
    let plan = FaultPlan::new();
    let runtime = runtime();
    let inner = tokio::task::spawn_blocking(move || open_here("memory://", &runtime))
        .await
        .unwrap();
    let store = FaultStore::new(inner.clone(), plan.clone());
    let key = Key::new("a")?;

    plan.fail_nth(0, ErrorKind::Unavailable);
    let error = store.put(&key, "x".into()).await.unwrap_err();
    assert!(error.is_temporary());
    assert!(inner.get(&key).await.unwrap_err().is_not_found());

    plan.fail_nth(0, Effect::FailAfter(ErrorKind::TimedOut));
    store
        .put_if_absent(&key, "0123456789".into())
        .await
        .unwrap_err();
    assert_eq!(inner.get(&key).await?, "0123456789");

    plan.set_filter(|op| op == Op::GetRange, "");
    plan.fail_nth(0, Effect::Short);
    assert!(store.get_range(&key, 0..10).await?.len() < 10);
    assert_eq!(store.get_range(&key, 0..10).await?, "0123456789");

    plan.fail_nth(0, Effect::Corrupt);
    let corrupt = store.get_range(&key, 0..10).await?;
    let differ = corrupt.iter().zip(b"0123456789").filter(|(a, b)| a != b);
    assert_eq!((corrupt.len(), differ.count()), (10, 1));

    plan.set_filter(|op| op == Op::WriterWrite, "");
    plan.fail_nth(1, Effect::Torn(ErrorKind::Io));
    let mut writer = store.writer(&key).await?;
    writer.write("new".into()).await?;
    writer.write("bytes".into()).await.unwrap_err();
    writer.write("more".into()).await.unwrap_err();
    writer.finish().await.unwrap_err();
    assert_eq!(inner.get(&key).await?, "0123456789");

    plan.set_filter(|op| op == Op::Copy, "b");
    let copy = Key::new("b")?;
    for (effect, there) in [
        (Effect::Fail(ErrorKind::Unavailable), false),
        (Effect::Torn(ErrorKind::Io), false),
        (Effect::FailAfter(ErrorKind::TimedOut), true),
    ] {
        plan.fail_nth(0, effect);
        store.copy(&key, &copy, 10).await.unwrap_err();
        assert_eq!(plan.injected(), 1);
        assert_eq!(inner.get(&copy).await.is_ok(), there, "{effect:?}");
    }
    store.copy(&key, &copy, 10).await?;
    assert_eq!(inner.get(&copy).await?, "0123456789");
    Ok(())
}

/// A store that has no copy of its own.
#[derive(Debug)]
pub(super) struct Streaming(pub(super) Arc<dyn RemoteStore>);

#[async_trait]
impl RemoteStore for Streaming {
    fn uri(&self) -> &str {
        self.0.uri()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            copy: CopyKind::Streamed,
            ..self.0.capabilities()
        }
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.0.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.0.get_range(key, range).await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.0.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.0.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        self.0.writer(key).await
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        self.0.len(key).await
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        self.0.list(prefix).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.0.delete(key).await
    }
}

/// The way that is open to every store keeps the contract too.
#[test]
fn a_store_without_a_copy_of_its_own() {
    let runtime = runtime();
    let store = Arc::new(Streaming(open_here("memory://", &runtime)));
    check(store, &runtime);
}

/// A streamed copy whose reads or writes fail leaves what was there; one whose bytes were changed on the way tells by its
/// checksum.
#[tokio::test]
async fn streamed_copies_that_fail() -> Result<()> {
    let inner: Arc<dyn RemoteStore> = Arc::new(MemoryStore::new());
    let plan = FaultPlan::new();
    let faults = Arc::new(FaultStore::new(inner.clone(), plan.clone()));
    let store = Streaming(faults);
    let bytes: Bytes = (0..40 << 20).map(|at| (at / 50_000) as u8).collect();
    let (from, to, len) = (Key::new("a")?, Key::new("b")?, bytes.len() as u64);
    inner.put(&from, bytes.clone()).await?;
    inner.put(&to, "before".into()).await?;

    for step in 0.. {
        plan.fail_nth(step, Effect::FailAfter(ErrorKind::TimedOut));
        let copied = store.copy(&from, &to, len).await;
        if plan.injected() == 0 {
            assert!(step > 20, "the copy has more steps than {step}");
            assert_eq!(copied?.xxh3, Some(xxh3_128(&bytes)));
            break;
        }
        copied.unwrap_err();
        let found = inner.get(&to).await?;
        let finished = plan.injections()[0].op == Op::WriterFinish;
        assert!(
            found
                == if finished {
                    bytes.clone()
                } else {
                    "before".into()
                }
        );
        inner.put(&to, "before".into()).await?;
    }
    inner.delete(&to).await?;
    plan.set_filter(|op| op == Op::GetRange, "");
    plan.fail_nth(3, Effect::Short);
    let error = store.copy(&from, &to, len).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(inner.len(&to).await.unwrap_err().is_not_found());

    plan.fail_nth(3, Effect::Corrupt);
    let copied = store.copy(&from, &to, len).await?;
    assert_eq!(copied.xxh3, Some(xxh3_128(&inner.get(&to).await?)));
    assert_ne!(copied.xxh3, Some(xxh3_128(&bytes)));
    Ok(())
}
