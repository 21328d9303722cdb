//! The user's side of a session: everything an application does between a prompt and a verified answer.
//!
//! [`Connection`] is a node, [`User`] an account on it. [`User::open_session`] takes two calls and one transaction;
//! [`User::ask`] posts the sealed prompt, submits the job, reads the stream, and checks what came back: every chunk's
//! mac, the worker's signature over the whole answer, and the hash the chain settled.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod connection;
mod error;
mod hand_over;
mod job;
mod session;
mod sortition;
mod stream;
mod user;

pub use connection::Connection;
pub use error::ClientError;
pub use job::{Answer, Event};
pub use session::{SessionStore, UserSession};
pub use sortition::{Claimed, REQUEST_LIFETIME_SECONDS};
pub use stream::{AnswerStream, StreamError, StreamUpdate};
pub use user::{MAX_PROMPT_BYTES, User};
