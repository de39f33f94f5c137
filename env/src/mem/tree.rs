//! The names of a [`MemEnv`](super::MemEnv): directories, and what each name was since it was last made durable.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Component, Path},
    sync::Arc,
};

use super::file::MemFile;
use crate::{DirEntry, Error, ErrorKind, FileKind, Result};

/// How many states of one name are remembered, the durable one included.
const STATES_MAX: usize = 9;

pub(super) type DirId = u64;

/// The root is always there.
pub(super) const ROOT: DirId = 0;

/// What a name stands for.
#[derive(Clone)]
pub(super) enum Node {
    File(Arc<MemFile>),
    Dir(DirId),
}

/// The states of one name since the directory was last synced, the durable one first and the present one last; never
/// empty. `None`: the name is not there.
pub(super) struct Name(Vec<Option<Node>>);

impl Name {
    pub(super) fn durable(node: Node) -> Self {
        Name(vec![Some(node)])
    }

    pub(super) fn states(&self) -> &[Option<Node>] {
        &self.0
    }

    fn now(&self) -> Option<&Node> {
        self.0.last().and_then(Option::as_ref)
    }

    fn set(&mut self, node: Option<Node>) {
        if self.0.len() == STATES_MAX {
            self.0.remove(1);
        }
        self.0.push(node);
    }

    /// Forgets all states but the present one; true where one of them was a directory.
    fn sync(&mut self) -> bool {
        let earlier = self.0.len() - 1;
        self.0
            .drain(..earlier)
            .any(|state| matches!(state, Some(Node::Dir(_))))
    }
}

pub(super) type Dir = BTreeMap<String, Name>;

/// All directories. One lock guards it: operations on names are not what a memory Env is fast for.
pub(super) struct Tree {
    dirs: HashMap<DirId, Dir>,
    next: DirId,
}

/// A name in a directory that is there.
pub(super) struct Place {
    dir: DirId,
    name: String,
}

impl Tree {
    pub(super) fn new() -> Self {
        Tree {
            dirs: HashMap::from([(ROOT, Dir::new())]),
            next: ROOT + 1,
        }
    }

    pub(super) fn dir(&self, id: DirId) -> Option<&Dir> {
        self.dirs.get(&id)
    }

    pub(super) fn add_dir(&mut self, dir: Dir) -> DirId {
        let id = self.next;
        self.next += 1;
        self.dirs.insert(id, dir);
        id
    }

    pub(super) fn replace_dir(&mut self, id: DirId, dir: Dir) {
        self.dirs.insert(id, dir);
    }

    pub(super) fn node(&self, operation: &'static str, path: &Path) -> Result<Node> {
        self.walk(&parts(operation, path)?, operation, path)
    }

    pub(super) fn file(&self, operation: &'static str, path: &Path) -> Result<Arc<MemFile>> {
        match self.node(operation, path)? {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(is_dir(operation, path)),
        }
    }

    /// Where `path` is or would be; its directory must be there.
    pub(super) fn place(&self, operation: &'static str, path: &Path) -> Result<Place> {
        let mut parts = parts(operation, path)?;
        let Some(name) = parts.pop() else {
            let message = "the root cannot be created, replaced or removed";
            return Err(Error::new(
                ErrorKind::InvalidInput,
                operation,
                path,
                message,
            ));
        };
        match self.walk(&parts, operation, path)? {
            Node::Dir(dir) => Ok(Place { dir, name }),
            Node::File(_) => Err(not_dir(operation, path)),
        }
    }

    pub(super) fn set(&mut self, place: &Place, node: Option<Node>) {
        // A place is made from a directory that is there, under the same lock.
        if let Some(dir) = self.dirs.get_mut(&place.dir) {
            dir.entry(place.name.clone())
                .or_insert_with(|| Name(vec![None]))
                .set(node);
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let old = self.place("rename", from)?;
        let node = self.at(&old, "rename", from)?;
        let new = self.place("rename", to)?;
        if matches!(node, Node::Dir(_)) && parts("rename", to)?.starts_with(&parts("rename", from)?)
        {
            if (old.dir, &old.name) == (new.dir, &new.name) {
                return Ok(());
            }
            let message = "a directory cannot be moved into itself";
            return Err(Error::new(ErrorKind::InvalidInput, "rename", from, message));
        }
        match (&node, self.now(&new)) {
            // Two names of one file: POSIX asks that both stay.
            (Node::File(file), Some(Node::File(there))) if Arc::ptr_eq(file, &there) => {
                return Ok(());
            }
            (Node::File(_), Some(Node::File(there))) => there.unlink(),
            (Node::File(_), Some(Node::Dir(_))) => return Err(is_dir("rename", to)),
            (Node::Dir(_), Some(Node::File(_))) => return Err(not_dir("rename", to)),
            (Node::Dir(_), Some(Node::Dir(there))) => self.must_be_empty(there, "rename", to)?,
            (_, None) => {}
        }
        if let Node::File(file) = &node {
            file.renamed();
        }
        self.set(&new, Some(node));
        self.set(&old, None);
        Ok(())
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> Result<()> {
        let file = self.file("link", from)?;
        let new = self.place("link", to)?;
        if self.now(&new).is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "link", to, ""));
        }
        file.link();
        self.set(&new, Some(Node::File(file)));
        Ok(())
    }

    pub(super) fn delete(&mut self, path: &Path) -> Result<()> {
        let place = self.place("delete", path)?;
        match self.at(&place, "delete", path)? {
            Node::File(file) => file.unlink(),
            Node::Dir(_) => return Err(is_dir("delete", path)),
        }
        self.set(&place, None);
        Ok(())
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> Result<()> {
        const OPERATION: &str = "create directory";
        let there = parts(OPERATION, path)?.is_empty();
        if there || self.now(&self.place(OPERATION, path)?).is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, path, ""));
        }
        let place = self.place(OPERATION, path)?;
        let id = self.add_dir(Dir::new());
        self.set(&place, Some(Node::Dir(id)));
        Ok(())
    }

    pub(super) fn delete_dir(&mut self, path: &Path) -> Result<()> {
        const OPERATION: &str = "delete directory";
        let place = self.place(OPERATION, path)?;
        match self.at(&place, OPERATION, path)? {
            Node::Dir(id) => self.must_be_empty(id, OPERATION, path)?,
            Node::File(_) => return Err(not_dir(OPERATION, path)),
        }
        self.set(&place, None);
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let id = self.dir_at("list", path)?;
        Ok(self
            .names_now(id)
            .map(|(name, node)| DirEntry {
                name: name.clone(),
                kind: match node {
                    Node::File(_) => FileKind::File,
                    Node::Dir(_) => FileKind::Directory,
                },
            })
            .collect())
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> Result<()> {
        let id = self.dir_at("sync directory", path)?;
        let mut lost_dir = false;
        if let Some(dir) = self.dirs.get_mut(&id) {
            dir.values_mut().for_each(|name| lost_dir |= name.sync());
            dir.retain(|_, name| name.now().is_some());
        }
        if lost_dir {
            self.drop_unreachable();
        }
        Ok(())
    }

    /// Drops directories, and with them files, that no state of any name leads to any more.
    fn drop_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            for name in self.dirs.get(&id).into_iter().flat_map(Dir::values) {
                for state in &name.0 {
                    if let Some(Node::Dir(below)) = state
                        && reached.insert(*below)
                    {
                        todo.push(*below);
                    }
                }
            }
        }
        self.dirs.retain(|id, _| reached.contains(id));
    }

    fn walk(&self, parts: &[String], operation: &'static str, path: &Path) -> Result<Node> {
        let mut node = Node::Dir(ROOT);
        for part in parts {
            let Node::Dir(id) = node else {
                return Err(not_dir(operation, path));
            };
            node = self
                .dir(id)
                .and_then(|dir| dir.get(part)?.now())
                .cloned()
                .ok_or_else(|| Error::new(ErrorKind::NotFound, operation, path, ""))?;
        }
        Ok(node)
    }

    fn now(&self, place: &Place) -> Option<Node> {
        self.dir(place.dir)?.get(&place.name)?.now().cloned()
    }

    fn at(&self, place: &Place, operation: &'static str, path: &Path) -> Result<Node> {
        self.now(place)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, operation, path, ""))
    }

    fn dir_at(&self, operation: &'static str, path: &Path) -> Result<DirId> {
        match self.node(operation, path)? {
            Node::Dir(id) => Ok(id),
            Node::File(_) => Err(not_dir(operation, path)),
        }
    }

    fn names_now(&self, id: DirId) -> impl Iterator<Item = (&String, &Node)> {
        self.dir(id)
            .into_iter()
            .flatten()
            .filter_map(|(name, states)| Some((name, states.now()?)))
    }

    fn must_be_empty(&self, id: DirId, operation: &'static str, path: &Path) -> Result<()> {
        if self.names_now(id).next().is_some() {
            let message = "the directory is not empty";
            return Err(Error::new(ErrorKind::Io, operation, path, message));
        }
        Ok(())
    }
}

/// The names from the root down to `path`.
fn parts(operation: &'static str, path: &Path) -> Result<Vec<String>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
            Component::ParentDir => {
                parts.pop();
            }
            Component::Normal(part) => match part.to_str() {
                Some(part) => parts.push(part.to_owned()),
                None => {
                    let message = "the path is not UTF-8";
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        operation,
                        path,
                        message,
                    ));
                }
            },
        }
    }
    Ok(parts)
}

fn is_dir(operation: &'static str, path: &Path) -> Error {
    Error::new(ErrorKind::Io, operation, path, "it is a directory")
}

fn not_dir(operation: &'static str, path: &Path) -> Error {
    Error::new(ErrorKind::Io, operation, path, "not a directory")
}
