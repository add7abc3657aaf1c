//! The core in virtual time: against scripted agents and clients, and two cores against each other.

mod agents;
mod calls;
mod clients;
mod random;
mod stage;
mod world;
