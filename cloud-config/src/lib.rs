//! The machine's configuration: `#cloud-config` documents in layers, merged with the origin of every value kept,
//! checked, and turned into [`Settings`], the only thing the programs use. Pure and synchronous.
//!
//! ```text
//!  text ─ document ─► Node tree with positions ─ check (schema) ─► the good part + diagnostics
//!    release defaults < OEM < cloud-config.d/* < instance data < cloud-config.yml < kernel command line
//!       └──────────────── tree::merge: maps merge, lists replace, ssh keys append ───────────────┘
//!                                      └─► Settings (typed)
//! ```
//!
//! A wrong file or key is a [`Diagnostic`] with file, line and column, and never an error: the rest counts.

pub mod changes;
pub mod check;
pub mod cmdline;
pub mod diagnostic;
pub mod document;
pub mod edit;
pub mod instance;
pub mod interfaces;
pub mod layers;
pub mod netplan;
pub mod redact;
pub mod schema;
pub mod settings;
pub mod template;
pub mod tree;
pub mod userdata;

pub use diagnostic::{Diagnostic, Severity};
pub use layers::{Loaded, Sources, load};
pub use settings::Settings;
pub use tree::{Layer, Node, Origin};
