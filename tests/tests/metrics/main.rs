//! The metrics endpoint: what it serves, and that the documents about it are true. A process of its own, since a recorder is
//! installed for good.

mod documents;
mod endpoint;
mod exposition;
mod figures;
mod promql;
