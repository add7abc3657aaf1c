//! What every transport must do, in one suite. A new transport needs one more line at the end of this file.

#[path = "../common/mod.rs"]
mod common;
mod ending;
mod meeting;
mod transfer;

use common::*;
use ending::*;
use meeting::*;
use ring::{Channel, Kind};
use transfer::*;

/// Both sizes of ring that a side can have, smallest to largest.
fn all_orders() -> impl Iterator<Item = (usize, usize)> {
    [(1 << 10, 1 << 11), (1 << 11, 1 << 10), (1 << 11, 1 << 12)]
        .into_iter()
        .chain((12..=20).map(|order| (1 << order, 1 << (32 - order))))
}

/// A few bytes both ways.
fn exchange(server: &mut Channel, client: &mut Channel) {
    let mut got = [0; 5];
    send(server, b"there");
    receive(client, &mut got);
    assert_eq!(&got, b"there");
    send(client, b"again");
    receive(server, &mut got);
    assert_eq!(&got, b"again");
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Shm => "shm",
        Kind::Socket => "socket",
        Kind::Xen => "xen",
    }
}

macro_rules! cases {
    ($kind:expr, $($case:ident)*) => { $(
        #[test]
        fn $case() {
            super::$case(&super::common::Bed::new($kind));
        }
    )* };
}

macro_rules! conformance {
    ($($transport:ident: $kind:expr;)*) => { $(
        mod $transport {
            use ring::Kind;

            cases! { $kind,
                sizes_are_chosen_by_the_server the_server_comes_first the_client_comes_first
                a_sleeping_client_is_woken nobody_comes a_meeting_happens_once bytes_wrap_around
                a_channel_is_its_halves_and_their_link
                a_full_ring_takes_nothing_and_an_empty_one_gives_nothing who_does_not_wait_is_not_woken
                no_wake_up_is_lost spans_carry_bulk spans_wrap_and_stop_in_the_middle
                what_was_written_can_be_read_after_the_close writes_after_the_peers_close_fail
                a_close_wakes_a_writer_that_waits_for_room a_killed_process_is_seen
                a_stale_socket_is_no_obstacle a_listener_leaves_its_successors_socket
                a_server_that_gives_up_is_replaced many_channels_at_once
            }

            #[test]
            fn long_folders_can_be_met_in() {
                super::long_folders_can_be_met_in($kind);
            }

            #[test]
            fn doomed_peer() {
                super::be_doomed($kind);
            }
        }
    )* };
}

conformance! {
    shm: Kind::Shm;
    socket: Kind::Socket;
}
