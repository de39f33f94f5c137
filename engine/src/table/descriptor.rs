//! Descriptors: how a program declares its tables.

use std::{any::type_name, borrow::Cow, fmt, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use super::schema::{TableKind, TableSchema, check_name};
use crate::{
    codec::{Codec, CodecHandle, Postcard},
    error::{Error, Result},
    rocks::DEFAULT_COLUMN,
};

mod sealed {
    pub trait Sealed {}
    impl<K, V> Sealed for super::ValueStateDescriptor<K, V> {}
    impl<K, UK, UV> Sealed for super::MapStateDescriptor<K, UK, UV> {}
}

/// Any kind of descriptor, where only the declaration matters and not the types.
pub trait TableDescriptor: sealed::Sealed {
    /// The table's name.
    fn name(&self) -> &str;

    /// The declaration.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where the name is not 1 to 128 characters of `A-Z a-z 0-9 . _ -`, or is `default`, which
    /// RocksDB keeps to itself.
    fn schema(&self) -> Result<TableSchema>;
}

/// Declares a table with one value per key.
///
/// ```
/// use lazurite::ValueStateDescriptor;
/// static COUNTS: ValueStateDescriptor<String, u64> = ValueStateDescriptor::new("counts");
/// ```
pub struct ValueStateDescriptor<K: 'static, V: 'static> {
    name: Cow<'static, str>,
    pub(super) key_codec: CodecHandle<K>,
    pub(super) value_codec: CodecHandle<V>,
    key_type: Option<&'static str>,
    value_type: Option<&'static str>,
}

impl<K, V> ValueStateDescriptor<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    /// The table `name`, its keys and values in [`Postcard`]. The name is checked where the descriptor is used.
    pub const fn new(name: &'static str) -> Self {
        ValueStateDescriptor {
            name: Cow::Borrowed(name),
            key_codec: CodecHandle::Static(&Postcard),
            value_codec: CodecHandle::Static(&Postcard),
            key_type: None,
            value_type: None,
        }
    }
}

impl<K, V> ValueStateDescriptor<K, V> {
    /// The table `name`, with codecs of its own: [`RawBytes`](crate::RawBytes), [`Postcard`] or the user's.
    pub fn with_codecs(
        name: impl Into<Cow<'static, str>>,
        key: impl Codec<K>,
        value: impl Codec<V>,
    ) -> Self {
        ValueStateDescriptor {
            name: name.into(),
            key_codec: CodecHandle::Shared(Arc::new(key)),
            value_codec: CodecHandle::Shared(Arc::new(value)),
            key_type: None,
            value_type: None,
        }
    }

    /// The names of the types as they are recorded and compared. Default: those of [`std::any::type_name`], which change
    /// when a type moves to another module. Give names that stay, and change them when the bytes do.
    pub const fn type_names(mut self, key: &'static str, value: &'static str) -> Self {
        self.key_type = Some(key);
        self.value_type = Some(value);
        self
    }
}

impl<K, V> TableDescriptor for ValueStateDescriptor<K, V> {
    fn name(&self) -> &str {
        &self.name
    }

    fn schema(&self) -> Result<TableSchema> {
        check_table_name(&self.name)?;
        Ok(TableSchema {
            name: self.name.to_string(),
            kind: TableKind::Value,
            key_type: self.key_type.unwrap_or(type_name::<K>()).to_string(),
            value_type: self.value_type.unwrap_or(type_name::<V>()).to_string(),
            user_key_type: None,
            key_codec: self.key_codec.id().to_string(),
            value_codec: self.value_codec.id().to_string(),
            user_key_codec: None,
        })
    }
}

impl<K, V> fmt::Debug for ValueStateDescriptor<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValueStateDescriptor({})", self.name)
    }
}

/// Declares a table with a map (user key to user value) per key.
///
/// ```
/// use lazurite::MapStateDescriptor;
/// static CLICKS: MapStateDescriptor<u64, String, u32> = MapStateDescriptor::new("clicks");
/// ```
pub struct MapStateDescriptor<K: 'static, UK: 'static, UV: 'static> {
    name: Cow<'static, str>,
    pub(super) key_codec: CodecHandle<K>,
    pub(super) user_key_codec: CodecHandle<UK>,
    pub(super) value_codec: CodecHandle<UV>,
    key_type: Option<&'static str>,
    user_key_type: Option<&'static str>,
    value_type: Option<&'static str>,
}

impl<K, UK, UV> MapStateDescriptor<K, UK, UV>
where
    K: Serialize + DeserializeOwned + 'static,
    UK: Serialize + DeserializeOwned + 'static,
    UV: Serialize + DeserializeOwned + 'static,
{
    /// The table `name`, everything in it in [`Postcard`]. The name is checked where the descriptor is used.
    pub const fn new(name: &'static str) -> Self {
        MapStateDescriptor {
            name: Cow::Borrowed(name),
            key_codec: CodecHandle::Static(&Postcard),
            user_key_codec: CodecHandle::Static(&Postcard),
            value_codec: CodecHandle::Static(&Postcard),
            key_type: None,
            user_key_type: None,
            value_type: None,
        }
    }
}

impl<K, UK, UV> MapStateDescriptor<K, UK, UV> {
    /// The table `name`, with codecs of its own. The entries of a key are iterated in the order of the bytes that the user
    /// key's codec writes.
    pub fn with_codecs(
        name: impl Into<Cow<'static, str>>,
        key: impl Codec<K>,
        user_key: impl Codec<UK>,
        value: impl Codec<UV>,
    ) -> Self {
        MapStateDescriptor {
            name: name.into(),
            key_codec: CodecHandle::Shared(Arc::new(key)),
            user_key_codec: CodecHandle::Shared(Arc::new(user_key)),
            value_codec: CodecHandle::Shared(Arc::new(value)),
            key_type: None,
            user_key_type: None,
            value_type: None,
        }
    }

    /// The names of the types as they are recorded and compared: see [`ValueStateDescriptor::type_names`].
    pub const fn type_names(
        mut self,
        key: &'static str,
        user_key: &'static str,
        value: &'static str,
    ) -> Self {
        self.key_type = Some(key);
        self.user_key_type = Some(user_key);
        self.value_type = Some(value);
        self
    }
}

impl<K, UK, UV> TableDescriptor for MapStateDescriptor<K, UK, UV> {
    fn name(&self) -> &str {
        &self.name
    }

    fn schema(&self) -> Result<TableSchema> {
        check_table_name(&self.name)?;
        Ok(TableSchema {
            name: self.name.to_string(),
            kind: TableKind::Map,
            key_type: self.key_type.unwrap_or(type_name::<K>()).to_string(),
            value_type: self.value_type.unwrap_or(type_name::<UV>()).to_string(),
            user_key_type: Some(self.user_key_type.unwrap_or(type_name::<UK>()).to_string()),
            key_codec: self.key_codec.id().to_string(),
            value_codec: self.value_codec.id().to_string(),
            user_key_codec: Some(self.user_key_codec.id().to_string()),
        })
    }
}

impl<K, UK, UV> fmt::Debug for MapStateDescriptor<K, UK, UV> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapStateDescriptor({})", self.name)
    }
}

/// Checks the name of a table, from a program or from metadata.
pub(crate) fn check_table_name(name: &str) -> Result<()> {
    check_name("table name", name)?;
    if name != DEFAULT_COLUMN {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option: "table name",
        reason: format!("{name:?} is RocksDB's own; take another name"),
    })
}
