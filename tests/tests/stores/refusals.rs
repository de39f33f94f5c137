//! What cannot work is refused at open, by one clear error, in which no secret stands.

use std::process::Command;

use crate::{
    servers::{http_get, variable},
    story::lazurite,
    world::{Kind, World},
};

const SECRET: &str = "Sup3rS3cr3tValue";

/// Opens a store by the command, and gives the one line that it says.
fn refusal(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    print!("{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(!said.contains(SECRET), "{said}");
    said
}

fn list(uri: &str) -> Command {
    let mut command = lazurite();
    command.args(["snapshots", "list", "--remote", uri]);
    command
}

#[test]
fn uris_that_cannot_be_right() {
    for (uri, expected) in [
        ("ftp://host/a".to_owned(), "must begin with file://"),
        ("s4://bucket/a".to_owned(), "must begin with file://"),
        (
            format!("s3://key:{SECRET}@bucket/a"),
            "must not hold credentials",
        ),
        (
            format!("s3://bucket/a?secret={SECRET}"),
            "takes only endpoint",
        ),
        (
            format!("hdfs://user:{SECRET}@host/a"),
            "must not hold credentials",
        ),
    ] {
        let said = refusal(&mut list(&uri));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn s3_says_what_is_wrong() {
    let Some(world) = World::new(Kind::S3) else {
        return;
    };
    let Some(known) = variable("AWS_SECRET_ACCESS_KEY") else {
        return;
    };
    let wrong_secret = refusal(list(&world.uri).env("AWS_SECRET_ACCESS_KEY", SECRET));
    let mut no_credentials = list(&world.uri);
    no_credentials
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env_remove("AWS_ACCESS_KEY_ID")
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
    let no_credentials = refusal(&mut no_credentials);
    let unknown_key = refusal(list(&world.uri).env("AWS_ACCESS_KEY_ID", "nobody"));
    let missing = refusal(&mut list(&world.uri.replacen(
        "s3://",
        "s3://no-such-bucket-",
        1,
    )));
    let nobody_there = world.uri_at("http://127.0.0.1:9");
    let nobody_there = refusal(&mut list(&nobody_there));
    for (said, expected) in [
        (&wrong_secret, "the store refused the credentials"),
        (&unknown_key, "the store refused the credentials"),
        (&no_credentials, "no usable credentials were found"),
        (&missing, "the bucket does not exist"),
        (&nobody_there, "temporarily unavailable"),
    ] {
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains(&known), "{said}");
    }
    if let Some(uri) = variable("LAZURITE_TEST_S3_FORBIDDEN_URI") {
        let said = refusal(&mut list(&uri));
        assert!(said.contains("permission denied"), "{said}");
        assert!(said.contains("do not allow this"), "{said}");
    }
}

#[test]
fn hdfs_says_what_is_wrong() {
    let Some(world) = World::new(Kind::Hdfs) else {
        return;
    };
    let nobody_there = refusal(&mut list("hdfs://127.0.0.1:9/a"));
    assert!(
        nobody_there.contains("temporarily unavailable"),
        "{nobody_there}"
    );
    let Some(web) = variable("LAZURITE_TEST_HDFS_WEB") else {
        return;
    };
    let path = world.uri.splitn(4, '/').nth(3).unwrap();
    let user = std::env::var("HADOOP_USER_NAME").unwrap();
    let url = format!("{web}/webhdfs/v1/{path}?op=MKDIRS&permission=700&user.name={user}");
    let made = Command::new("curl")
        .args(["-fsS", "--noproxy", "*", "-X", "PUT", &url])
        .output()
        .unwrap();
    assert!(made.status.success());
    assert!(http_get(&format!("{web}/webhdfs/v1/{path}?op=GETFILESTATUS")).contains("700"));
    let said = refusal(list(&world.uri).env("HADOOP_USER_NAME", "stranger"));
    assert!(
        said.contains("permission denied") && said.contains("HADOOP_USER_NAME"),
        "{said}"
    );
    let below = format!("{}/below", world.uri);
    let said = refusal(list(&below).env("HADOOP_USER_NAME", "stranger"));
    assert!(said.contains("permission denied"), "{said}");
}
