//! Releases R1 and R2: the interface for their programs, and the protocol of their daemons.
//!
//! | module | what it holds |
//! |---|---|
//! | `entrance` | the FIFO, and the socket that passes descriptors, by which programs of those releases ask |
//! | `caller` | such a program on a link with a current protocol: a process for its call |
//! | `serve` | the agent of protocol 1: all calls in one process, on one link |
//! | `call` | the streams of one of them |

pub(crate) mod call;
pub(crate) mod caller;
pub(crate) mod entrance;
pub(crate) mod multiplexed;
