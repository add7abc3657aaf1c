//! USB/IP between two kernels: what the filter lets through it lets through again unchanged, the pieces in which bytes
//! arrive do not matter, what is pending stays within the rules, and after a violation nothing more passes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::usbip::{Classes, Filter, Rules, Side, Violation};

/// Small bounds, so that short inputs reach them.
const RULES: Rules = Rules {
    pending: 8,
    buffers: 4096,
    packets: 24,
    vendor_requests: false,
    other_configurations: false,
    firmware: false,
    classes: Some(STORAGE),
};
const STORAGE: Classes = {
    let mut classes = Classes::NONE;
    classes.add(8);
    classes
};

fuzz_target!(|data: &[u8]| {
    let (seed, stream) = fuzz::split(data);
    // Pieces of both sides in turn: a byte with side and length, then so many bytes.
    let mut turns = Vec::new();
    let mut rest = stream;
    while let Some((first, behind)) = rest.split_first() {
        let side = if first & 1 == 0 { Side::Export } else { Side::Import };
        let (bytes, later) = behind.split_at(usize::from(first >> 1).min(behind.len()));
        turns.push((side, bytes));
        rest = later;
    }
    let whole = run(&turns, 0);
    assert_eq!(run(&turns, seed | 1), whole);
    let passed: Vec<_> = whole.passed.iter().map(|(side, bytes)| (*side, bytes.as_slice())).collect();
    let again = run(&passed, 0);
    assert_eq!((again.passed, again.refused), (whole.passed, None));
});

/// What came through, turn by turn, and what was refused in the end.
#[derive(Debug, PartialEq)]
struct Run {
    passed: Vec<(Side, Vec<u8>)>,
    refused: Option<(Side, Violation)>,
}

fn run(turns: &[(Side, &[u8])], seed: u8) -> Run {
    let mut filter = Filter::new(RULES);
    let mut run = Run { passed: Vec::new(), refused: None };
    for (side, bytes) in turns {
        let mut out = Vec::new();
        for piece in fuzz::pieces(bytes, seed) {
            if let Err(violation) = filter.strain(*side, piece, &mut out) {
                run.refused = Some((*side, violation));
            }
            assert!(filter.pending() <= RULES.pending);
            if run.refused.is_some() {
                assert_eq!((filter.wanted(Side::Import), filter.wanted(Side::Export)), (0, 0));
                assert_eq!((filter.payload_left(Side::Import), filter.payload_left(Side::Export)), (0, 0));
                run.passed.push((*side, out));
                return run;
            }
        }
        run.passed.push((*side, out));
    }
    run
}
