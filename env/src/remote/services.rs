//! One OpenDAL operator for each store that OpenDAL reaches, configured from its URI alone.
//!
//! Credentials are not touched here: each service's own loader reads the usual environment variables and files.

#![cfg_attr(
    not(any(
        feature = "services-s3",
        feature = "services-gcs",
        feature = "services-azblob",
        feature = "services-webhdfs"
    )),
    expect(dead_code, unused_imports, reason = "nothing is left to configure")
)]

use opendal::{Builder, Operator, services};

use crate::{Error, ErrorKind, Result};

use super::{
    CommitPrimitive,
    error::at_open,
    uri::{Place, StoreUri},
};

/// The operator without layers, and how it creates exclusively. No request is made.
pub(super) fn operator(uri: &StoreUri) -> Result<(Operator, CommitPrimitive)> {
    opendal::install_default();
    match uri {
        #[cfg(feature = "services-s3")]
        StoreUri::S3 {
            place,
            endpoint,
            region,
            virtual_host_style,
        } => {
            let mut s3 = services::S3::default()
                .bucket(&place.host)
                .root(&root(place));
            if let Some(endpoint) = endpoint {
                // Not Amazon: no machine of theirs will answer where its metadata service would.
                s3 = s3.endpoint(endpoint).disable_ec2_metadata();
            }
            let given = ["AWS_REGION", "AWS_DEFAULT_REGION"].map(std::env::var_os);
            match region {
                Some(region) => s3 = s3.region(region),
                None if given.iter().any(Option::is_some) => {}
                None if endpoint.is_some() => s3 = s3.region("us-east-1"),
                None => {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        "open",
                        uri.to_string(),
                        "the region is not known: set AWS_REGION or add ?region=… to the URI",
                    ));
                }
            }
            if *virtual_host_style {
                s3 = s3.enable_virtual_host_style();
            }
            build(uri, s3, CommitPrimitive::ConditionalPut)
        }
        #[cfg(feature = "services-gcs")]
        StoreUri::Gcs { place, endpoint } => {
            let mut gcs = services::Gcs::default()
                .bucket(&place.host)
                .root(&root(place));
            if let Some(endpoint) = endpoint {
                gcs = gcs.endpoint(endpoint).disable_vm_metadata();
            }
            build(uri, gcs, CommitPrimitive::ConditionalPut)
        }
        #[cfg(feature = "services-azblob")]
        StoreUri::Azblob {
            place,
            account,
            endpoint,
        } => {
            let variable = |name: &str| std::env::var(name).ok();
            let account = account
                .clone()
                .or_else(|| variable("AZURE_STORAGE_ACCOUNT_NAME"))
                .or_else(|| variable("AZURE_STORAGE_ACCOUNT"));
            let mut azblob = services::Azblob::default()
                .container(&place.host)
                .root(&root(place));
            if let Some(account) = &account {
                azblob = azblob.account_name(account);
            }
            match (endpoint, &account) {
                (Some(endpoint), _) => azblob = azblob.endpoint(endpoint),
                (None, Some(account)) => {
                    azblob = azblob.endpoint(&format!("https://{account}.blob.core.windows.net"));
                }
                (None, None) => {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        "open",
                        uri.to_string(),
                        "the account is not known: set AZURE_STORAGE_ACCOUNT_NAME or add ?account=… to the URI",
                    ));
                }
            }
            build(uri, azblob, CommitPrimitive::ConditionalPut)
        }
        #[cfg(feature = "services-webhdfs")]
        StoreUri::WebHdfs { place } => {
            let mut webhdfs = services::Webhdfs::default()
                .endpoint(&format!("http://{}", place.host))
                .root(&root(place));
            if let Ok(user) = std::env::var("HADOOP_USER_NAME") {
                webhdfs = webhdfs.user_name(&user);
            }
            build(uri, webhdfs, CommitPrimitive::None)
        }
        _ => Err(not_compiled_in(uri)),
    }
}

/// The error for a scheme whose feature is off.
pub(super) fn not_compiled_in(uri: &StoreUri) -> Error {
    let feature = match uri {
        StoreUri::File { .. } => "services-fs",
        StoreUri::Memory { .. } => "services-memory",
        StoreUri::S3 { .. } => "services-s3",
        StoreUri::Hdfs { .. } => "services-hdfs-native",
        StoreUri::WebHdfs { .. } => "services-webhdfs",
        StoreUri::Gcs { .. } => "services-gcs",
        StoreUri::Azblob { .. } => "services-azblob",
    };
    Error::new(
        ErrorKind::Unsupported,
        "open",
        uri.to_string(),
        format!("this program was built without the cargo feature `{feature}` of lazurite-env"),
    )
}

fn build(
    uri: &StoreUri,
    builder: impl Builder,
    commit: CommitPrimitive,
) -> Result<(Operator, CommitPrimitive)> {
    match Operator::new(builder) {
        Ok(operator) => Ok((operator, commit)),
        Err(e) => Err(at_open(uri.to_string(), &e)),
    }
}

fn root(place: &Place) -> String {
    format!("/{}", place.prefix)
}
