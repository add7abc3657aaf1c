//! Releases R1 and R2: the interface that their programs know, and the wire that their daemons speak.
//!
//! | module | what it holds |
//! |---|---|
//! | `entrance` | the FIFO and the socket that passes descriptors, by which programs of the time ask |
//! | `caller` | such a program on a link of today: a process for its call |
//! | `serve` | the agent of protocol 1: all calls in one process, on one link |
//! | `call` | the streams of one of them |

pub(crate) mod call;
pub(crate) mod caller;
pub(crate) mod entrance;
pub(crate) mod multiplexed;
