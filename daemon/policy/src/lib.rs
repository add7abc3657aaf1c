//! The qrexec policy: who may call which service where. Pure: no file, no clock, no process.
//!
//! A policy is compiled once from texts that the caller has at hand and then answers questions in
//! microseconds. Whatever is not understood denies: a text that does not compile makes *every*
//! call be denied, as does a rule that cannot be evaluated.
//!
//! ```
//! use policy::{Decision, Domain, Files, Policy, Request, SystemInfo};
//!
//! let files = Files::new().policy("30-user.policy", "demo.Add * work @default allow target=vault\n");
//! let policy = Policy::compile(&files).expect("the policy has no errors");
//!
//! let system = SystemInfo::new([Domain::new("work", "AppVM"), Domain::new("vault", "AppVM")])?;
//! let request = Request::new("work", "@default", "demo.Add+1");
//! match policy.decide(&system, &request) {
//!     Decision::Allow(allow) => assert_eq!(allow.target, "vault"),
//!     other => panic!("{other:?}"),
//! }
//! # Ok::<(), policy::SystemError>(())
//! ```
//!
//! # How a decision is made
//!
//! 1. A loader gives folders and files through the [`Source`] trait ([`Files`] is one in memory;
//!    the daemon has one over the file system). Which files count, in which order, and what hides
//!    what is decided here, in [`Policy::compile`].
//! 2. [`Policy::compile`] gives a [`Policy`] or a [`PolicyError`] with file, line, column and what
//!    would be right. [`Policy::broken`] turns the error into a policy that denies everything.
//! 3. [`Policy::decide`] takes the [`SystemInfo`] of this moment and a [`Request`] and gives a
//!    [`Decision`]: [`Allow`], [`Ask`] or [`Deny`].
//! 4. [`Ask::choose`] turns the user's choice into a decision; [`Ask::refuse`] their refusal.
//! 5. [`Decision::answer`] is the text that the policy socket and the policy program give back.
//! 6. [`Policy::explain`] says which lines were looked at and why each did or did not match.
//!
//! The system of before R4.1, one file per service and no `policy.d`, is in [`legacy`].
//!
//! # What decides
//!
//! The grammar and the decisions are those of upstream's own engine, its corners included: where
//! that engine would stop with an internal error, the call is denied. The only wanted differences:
//! a qube without UUID (as in R4.2 and before) can be called and has no `target_uuid` in the
//! answer; control characters in a request are refused.
#![forbid(unsafe_code)]

mod asked;
mod buckets;
mod choices;
mod compile;
mod decide;
mod decision;
mod entry;
mod error;
mod explain;
mod index;
mod json;
pub mod legacy;
mod lex;
pub mod load;
mod mark;
mod matching;
mod names;
mod request;
mod route;
mod rule;
mod system;
mod token;
mod user;

pub use decide::Policy;
pub use decision::{Allow, Ask, Decision, Deny, RuleRef};
pub use error::{PolicyError, SourceError};
pub use explain::{Explanation, Step};
pub use load::{Files, Source};
pub use request::{Request, split_service};
pub use route::MAX_ANSWER;
pub use rule::{Action, Rule, Verb};
pub use system::{Domain, SystemError, SystemInfo};
pub use token::Token;
pub use user::{BadUser, User};
