//! What the tests of calls have in common.

use std::path::Path;
use std::thread;
use std::time::Duration;

use engine::datalink;
use ring::{Channel, Kind, Sizes, Transport};
use wire::version::Version;

const LIMIT: Duration = Duration::from_secs(10);

/// Both ends of one data link: the client's (vchan server) and the service's.
pub(crate) fn link(kind: Kind, dir: &Path, size: usize) -> [(Channel, Version); 2] {
    let server = Transport::new(kind, 1, dir);
    let client = Transport::new(kind, 2, dir);
    let other = thread::spawn(move || datalink::connect(&client, 1, 513, LIMIT).unwrap());
    let ours = datalink::serve(&server, 2, 513, Sizes::both(size), LIMIT).unwrap();
    [ours, other.join().unwrap()]
}
