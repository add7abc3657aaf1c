//! The two ends against each other, and each against bytes that its peer would not send.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// Both ends, and what they told their callers.
#[derive(Default)]
struct Pair {
    agent: AgentMux,
    daemon: DaemonMux,
    from_agent: Vec<AgentOutput>,
    from_daemon: Vec<DaemonOutput>,
}

impl Pair {
    /// Moves everything that waits, in pieces of a ring each.
    fn settle(&mut self) {
        while !self.agent.outgoing().is_empty() || !self.daemon.outgoing().is_empty() {
            self.move_to_agent(TO_AGENT_RING);
            self.move_to_daemon(TO_DAEMON_RING);
        }
        self.from_agent.extend(core::iter::from_fn(|| self.agent.poll_output()));
        self.from_daemon.extend(core::iter::from_fn(|| self.daemon.poll_output()));
    }

    fn move_to_agent(&mut self, room: usize) {
        let bytes: Vec<u8> = self.daemon.outgoing().iter().take(room).copied().collect();
        self.daemon.sent(bytes.len());
        self.agent.handle_bytes(&bytes).expect("ours keeps the protocol");
    }

    fn move_to_daemon(&mut self, room: usize) {
        let bytes: Vec<u8> = self.agent.outgoing().iter().take(room).copied().collect();
        self.agent.sent(bytes.len());
        self.daemon.handle_bytes(&bytes).expect("ours keeps the protocol");
    }

    /// Begins a command and gives the agent's name for it.
    fn begin(&mut self, key: u64) -> CallKey {
        self.daemon.begin(ClientKey(key), ty::CLIENT_EXEC, b"user:x\0", "joe").expect("room");
        self.settle();
        match self.from_agent.pop() {
            Some(AgentOutput::Start(call, command)) if command == b"user:x" => call,
            other => panic!("{other:?}"),
        }
    }
}

/// The messages that these bytes are.
fn messages(bytes: &[u8]) -> Vec<Message> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let messages = core::iter::from_fn(|| decoder.next().expect("well formed")).collect();
    assert!(!decoder.is_mid_message());
    messages
}

fn message(ty: u32, client: u8, body: &[u8]) -> Message {
    Message { ty, client, body: body.to_vec() }
}

#[test]
fn one_call_is_exactly_these_messages() {
    let (mut agent, mut daemon) = (AgentMux::default(), DaemonMux::default());
    let key = ClientKey(70);
    daemon.begin(key, ty::CLIENT_EXEC, b"DEFAULT:cat; exit 3\0", "joe").expect("room");
    daemon.read(key, b"hello\n");
    // The end is sent once, however often it is reported.
    (0..2).for_each(|_| daemon.read(key, b""));
    let sent = daemon.outgoing().to_vec();
    daemon.sent(sent.len());
    let said = [
        message(ty::EXEC, 0, b"joe:cat; exit 3\0"),
        message(ty::INPUT, 0, b"hello\n"),
        message(ty::INPUT, 0, b""),
    ];
    assert_eq!(messages(&sent), said);
    assert_eq!(&sent[..12], [0x04, 1, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0]);

    agent.handle_bytes(&sent).expect("fine");
    let Some(AgentOutput::Start(call, command)) = agent.poll_output() else { panic!("no start") };
    assert_eq!(command, b"joe:cat; exit 3");
    assert_eq!(agent.poll_output(), Some(AgentOutput::Input(call)));
    assert_eq!(agent.pending(call), b"hello\n");
    assert!(!agent.input_is_over(call));
    agent.wrote(call, 6);
    assert!(agent.input_is_over(call));
    agent.read(call, Stream::Stdout, b"hello\n");
    agent.read(call, Stream::Stderr, b"e\n");
    agent.read(call, Stream::Stdout, b"");
    agent.reaped(call, WaitStatus::exited(3));
    // Not before both streams have ended.
    agent.read(call, Stream::Stderr, b"");
    let answer = agent.outgoing().to_vec();
    let said = [
        message(ty::STDOUT, 0, b"hello\n"),
        message(ty::STDERR, 0, b"e\n"),
        message(ty::STDOUT, 0, b""),
        message(ty::STDERR, 0, b""),
        message(ty::EXIT_CODE, 0, &[0, 3, 0, 0]),
    ];
    assert_eq!(messages(&answer), said);

    daemon.handle_bytes(&answer).expect("fine");
    assert_eq!(messages(daemon.outgoing()), [message(ty::CLIENT_END, 0, b"")]);
    let over = core::iter::from_fn(|| daemon.poll_output()).last();
    let Some(DaemonOutput::Over(gone, rest)) = over else { panic!("{over:?}") };
    assert_eq!((gone, daemon.clients().count()), (key, 0));
    let head = |ty: u32, len: u32| crate::header::Header::new(ty, len).to_bytes();
    let expected: Vec<u8> = [
        &head(ty::TO_CLIENT_STDOUT, 6)[..],
        b"hello\n",
        &head(ty::TO_CLIENT_STDERR, 2),
        b"e\n",
        &head(ty::TO_CLIENT_STDOUT, 0),
        &head(ty::TO_CLIENT_STDERR, 0),
        &head(ty::TO_CLIENT_EXIT_CODE, 4),
        &[0, 3, 0, 0],
    ]
    .concat();
    assert_eq!(rest, expected);
}

#[test]
fn without_streams_the_client_is_over_at_once_and_the_agent_keeps_nothing() {
    let mut pair = Pair::default();
    pair.daemon.begin(ClientKey(1), ty::CLIENT_JUST_EXEC, b"joe:x\0", "").expect("room");
    assert_eq!(
        messages(pair.daemon.outgoing()),
        [message(ty::JUST_EXEC, 0, b"joe:x\0"), message(ty::CLIENT_END, 0, b"")]
    );
    pair.settle();
    assert_eq!(pair.from_agent, [AgentOutput::JustStart(b"joe:x".to_vec())]);
    assert_eq!(pair.from_daemon, [DaemonOutput::Over(ClientKey(1), vec![])]);
    assert_eq!((pair.agent.clients().count(), pair.daemon.clients().count()), (0, 0));
}

#[test]
fn a_caller_is_connected_and_has_no_process_to_wait_for() {
    let mut pair = Pair::default();
    let blob = Blob::new("test.Add", "vault", "9 11 12").expect("fits");
    assert!(pair.agent.trigger(&blob));
    assert_eq!(pair.agent.outgoing().len(), HEADER_LEN + BLOB_LEN);
    assert_eq!(pair.agent.outgoing()[..12], [0x0d, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    pair.settle();
    assert_eq!(pair.from_daemon, [DaemonOutput::Trigger(blob)]);
    pair.daemon.begin(ClientKey(1), ty::CLIENT_CONNECT, b"9 11 12\0", "joe").expect("room");
    pair.settle();
    let Some(AgentOutput::Connect(call, Some(Handles([9, 11, 12])))) = pair.from_agent.pop() else {
        panic!("not connected")
    };
    pair.agent.read(call, Stream::Stdout, &[]);
    pair.agent.read(call, Stream::Stderr, &[]);
    pair.settle();
    assert!(
        matches!(pair.from_daemon.pop(), Some(DaemonOutput::Over(ClientKey(1), rest)) if rest.ends_with(&[0; 4]))
    );
    assert_eq!(pair.from_agent.pop(), Some(AgentOutput::Over(call, vec![])));
}

#[test]
fn requests_of_windows_agents_have_their_length() {
    let blob = Blob::new("test.Add", "vault", "1 2 3").expect("fits").to_bytes();
    let mut daemon = DaemonMux::default();
    for len in [0, 128, u32::MAX] {
        let header = Header { ty: ty::TRIGGER, client: 0, len }.to_bytes();
        daemon.handle_bytes(&[&header[..], &blob].concat()).expect("fine");
        assert_eq!(daemon.poll_output(), Some(DaemonOutput::Trigger(Blob::from_bytes(blob))));
    }
}

#[test]
fn one_that_does_not_take_its_data_stops_its_own_stream_only() {
    let mut pair = Pair::default();
    let (slow, quick) = (pair.begin(1), pair.begin(2));
    // From dom0 into the VM.
    pair.daemon.read(ClientKey(1), &[7; 100]);
    pair.settle();
    pair.agent.blocked(slow);
    pair.agent.blocked(slow);
    assert_eq!(messages(pair.agent.outgoing()), [message(ty::XOFF, 0, b"")]);
    pair.settle();
    assert!(!pair.daemon.may_read(ClientKey(1)) && pair.daemon.may_read(ClientKey(2)));
    pair.agent.wrote(slow, 99);
    assert!(pair.agent.outgoing().is_empty(), "a byte is left");
    pair.agent.wrote(slow, 1);
    pair.settle();
    assert!(pair.daemon.may_read(ClientKey(1)));
    assert_eq!(pair.from_daemon.pop(), Some(DaemonOutput::Resumed(ClientKey(1))));
    // From the VM to dom0.
    pair.agent.read(slow, Stream::Stdout, b"x");
    pair.settle();
    pair.daemon.blocked(ClientKey(1));
    pair.settle();
    assert!(!pair.agent.may_read(slow) && pair.agent.may_read(quick));
    let all = pair.daemon.pending(ClientKey(1)).len();
    pair.daemon.wrote(ClientKey(1), all);
    pair.settle();
    assert!(pair.agent.may_read(slow));
    // Nothing is sent about a client for which nothing waits.
    pair.agent.blocked(quick);
    assert!(pair.agent.outgoing().is_empty());
}

#[test]
fn whoever_goes_on_after_xoff_loses_that_client_and_no_other() {
    let mut agent = AgentMux::default();
    let exec = |id| wire_message(ty::EXEC, id, b"u:x\0");
    agent.handle_bytes(&[exec(1), exec(2)].concat()).expect("fine");
    let calls: Vec<CallKey> = agent.clients().collect();
    let input = wire_message(ty::INPUT, 1, &[0; 4096]);
    for _ in 0..2 * MAX_KEPT / 4096 {
        agent.handle_bytes(&input).expect("costs one client only");
        assert!(agent.held() <= MAX_KEPT + 2 * 4108);
    }
    let told: Vec<AgentOutput> = core::iter::from_fn(|| agent.poll_output()).collect();
    assert!(told.contains(&AgentOutput::Flooded(calls[0])));
    assert_eq!(agent.clients().collect::<Vec<_>>(), [calls[1]]);
    let said = messages(agent.outgoing());
    assert_eq!(said.last(), Some(&message(ty::EXIT_CODE, 1, &[0, 255, 0, 0])));

    let mut daemon = DaemonMux::default();
    for key in [1, 2] {
        daemon.begin(ClientKey(key), ty::CLIENT_EXEC, b"u:x\0", "").expect("room");
    }
    daemon.sent(daemon.outgoing().len());
    let output = wire_message(ty::STDOUT, 0, &[0; 4096]);
    for _ in 0..2 * MAX_KEPT / 4096 {
        daemon.handle_bytes(&output).expect("costs one client only");
    }
    let told: Vec<DaemonOutput> = core::iter::from_fn(|| daemon.poll_output()).collect();
    assert!(told.contains(&DaemonOutput::Flooded(ClientKey(1))));
    assert_eq!(daemon.clients().collect::<Vec<_>>(), [ClientKey(2)]);
    assert_eq!(messages(daemon.outgoing()), [message(ty::CLIENT_END, 0, b"")]);
}

fn wire_message(ty: u32, client: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, ty, client, body);
    out
}

#[test]
fn what_was_kept_is_given_over_at_the_end() {
    let mut pair = Pair::default();
    let call = pair.begin(1);
    pair.daemon.read(ClientKey(1), b"late words");
    pair.daemon.client_gone(ClientKey(1));
    pair.settle();
    assert_eq!(pair.from_agent.last(), Some(&AgentOutput::Over(call, b"late words".to_vec())));
    // A second CLIENT_END, and any other message with its number, is about no client.
    for ty in [ty::CLIENT_END, ty::INPUT, ty::XON, ty::XOFF] {
        pair.agent.handle_bytes(&wire_message(ty, 0, b"")).expect("ignored");
        assert_eq!(pair.agent.poll_output(), None);
    }
}

/// A thousand clients are killed while their processes still write: none of that reaches another client.
#[test]
fn late_words_reach_nobody() {
    let mut pair = Pair::default();
    let mut stale: Vec<u8> = Vec::new();
    for round in 0..1000_u64 {
        let (killed, other) = (ClientKey(2 * round), ClientKey(2 * round + 1));
        let call = pair.begin(killed.0);
        pair.from_daemon.clear();
        // Written before the agent has received CLIENT_END, and still on the way.
        pair.agent.read(call, Stream::Stdout, b"late");
        pair.daemon.client_gone(killed);
        stale.extend_from_slice(pair.agent.outgoing());
        pair.agent.sent(pair.agent.outgoing().len());
        pair.daemon.begin(other, ty::CLIENT_EXEC, b"user:x\0", "").expect("room");
        pair.daemon.handle_bytes(&core::mem::take(&mut stale)).expect("late, not wrong");
        assert!(pair.daemon.pending(other).is_empty(), "round {round}");
        pair.settle();
        let started = pair.from_agent.iter().rev().find_map(|told| match told {
            AgentOutput::Start(call, _) => Some(*call),
            _ => None,
        });
        let call = started.expect("started");
        pair.agent.read(call, Stream::Stdout, b"");
        pair.agent.read(call, Stream::Stderr, b"");
        pair.agent.reaped(call, WaitStatus::exited(0));
        pair.settle();
        assert!(
            pair.from_daemon.iter().any(|told| matches!(told, DaemonOutput::Over(key, _) if *key == other))
        );
        pair.from_agent.clear();
    }
}

#[test]
fn all_numbers_are_used_and_no_more() {
    let mut daemon = DaemonMux::default();
    let mut begin = |key| daemon.begin(ClientKey(key), ty::CLIENT_EXEC, b"u:x\0", "");
    assert!((0..256).all(|key| begin(key).is_ok()));
    assert_eq!(begin(256), Err(NoRoom::Ids));
    daemon.client_gone(ClientKey(7));
    assert!(daemon.begin(ClientKey(257), ty::CLIENT_EXEC, b"u:x\0", "").is_ok());
}

#[test]
fn what_breaks_the_protocol_ends_the_link() {
    let head = |ty, client, len| Header { ty, client, len }.to_bytes().to_vec();
    let cases = [
        (head(0x42, 0, 0), Breach::Type(0x42)),
        (head(ty::CLIENT_EXEC, 0, 2), Breach::Type(ty::CLIENT_EXEC)),
        (head(ty::XON, 256, 0), Breach::Client(256)),
        (head(ty::INPUT, 0, 4097), Breach::TooLong { ty: ty::INPUT, len: 4097, max: 4096 }),
        (head(ty::STDOUT, 0, u32::MAX), Breach::TooLong { ty: ty::STDOUT, len: u32::MAX, max: 4096 }),
        (head(ty::EXEC, 0, 65_536), Breach::TooLong { ty: ty::EXEC, len: 65_536, max: 65_535 }),
        (head(ty::XOFF, 0, 1), Breach::TooLong { ty: ty::XOFF, len: 1, max: 0 }),
        (head(ty::EXIT_CODE, 0, 3), Breach::Length { ty: ty::EXIT_CODE, len: 3 }),
    ];
    for (bytes, breach) in cases {
        assert_eq!(AgentMux::default().handle_bytes(&bytes), Err(breach));
        assert_eq!(DaemonMux::default().handle_bytes(&bytes), Err(breach));
    }
    // Each side refuses the types that only the other may receive.
    let agent = |bytes: Vec<u8>| AgentMux::default().handle_bytes(&bytes);
    let daemon = |bytes: Vec<u8>| DaemonMux::default().handle_bytes(&bytes);
    assert_eq!(agent(wire_message(ty::STDOUT, 0, b"")), Err(Breach::Type(ty::STDOUT)));
    assert_eq!(daemon(wire_message(ty::INPUT, 0, b"")), Err(Breach::Type(ty::INPUT)));
    assert_eq!(agent(wire_message(ty::EXEC, 0, b"no end")), Err(Breach::Text(ty::EXEC)));
    assert_eq!(agent(wire_message(ty::EXEC, 0, b"two\0ends\0")), Err(Breach::Text(ty::EXEC)));
    let twice = [wire_message(ty::EXEC, 5, b"u:x\0"), wire_message(ty::EXEC, 5, b"u:x\0")].concat();
    assert_eq!(agent(twice), Err(Breach::InUse(5)));
    // Messages about no client are dropped.
    for ty in [ty::STDOUT, ty::STDERR, ty::XON, ty::XOFF] {
        assert_eq!(daemon(wire_message(ty, 9, b"")), Ok(()));
    }
}

#[test]
fn requests_on_the_fifo_are_whole_or_nothing() {
    let good = Blob::new("test.Add", "vault", "5 6 7").expect("fits").to_bytes();
    let (blob, handles) = Blob::checked(&good).expect("fine");
    assert_eq!((blob.service(), blob.target(), handles.0), (&b"test.Add"[..], &b"vault"[..], [5, 6, 7]));
    assert_eq!(handles.to_string(), "5 6 7");
    assert_eq!(Blob::checked(&good[..127]), Err(BlobError::Length(127)));
    assert_eq!(Blob::checked(&[&good[..], b"\0"].concat()), Err(BlobError::Length(129)));
    for (at, name) in [(63, "service"), (95, "target"), (127, "ident")] {
        let mut bad = good;
        bad[at] = b'x';
        assert_eq!(Blob::checked(&bad), Err(BlobError::NoEnd(name)));
    }
    for ident in ["", "5 6", "5  6 7", "5 6 7 8", "5 6 -7", "5 6 +7", "5 6 x", " 5 6 7", "5 6 99999999999"] {
        let bad = Blob::new("test.Add", "vault", ident).expect("fits").to_bytes();
        assert_eq!(Blob::checked(&bad), Err(BlobError::Ident), "{ident:?}");
    }
    let nameless = Blob::new("", "vault", "5 6 7").expect("fits").to_bytes();
    assert_eq!(Blob::checked(&nameless), Err(BlobError::NoService));
    assert_eq!(Blob::new("s", &"x".repeat(32), "1 2 3"), None);
}

#[test]
fn names_are_made_harmless_as_the_old_daemon_does() {
    let mut bytes = [b'x'; BLOB_LEN];
    bytes[..9].copy_from_slice(b"a;$(b) c\n");
    bytes[64..68].copy_from_slice(b"$di/");
    let [service, target, ident] = Blob::from_bytes(bytes).words();
    assert!(service.starts_with("a_$_b_ c_x") && service.len() == 63, "{service}");
    assert!(target.starts_with("$di_x") && target.len() == 31 && ident.len() == 31);
}

#[test]
fn wait_statuses() {
    for (code, bytes) in [(0, [0, 0, 0, 0]), (3, [0, 3, 0, 0]), (137, [0, 137, 0, 0]), (256, [0, 255, 0, 0])]
    {
        assert_eq!(WaitStatus::exited(code).to_bytes(), bytes);
    }
    assert_eq!(WaitStatus::from_bytes([0, 7, 0, 0]).client_status(), 7);
    assert_eq!(WaitStatus::from_bytes([9, 0, 0, 0]).client_status(), 255);
    assert_eq!(WaitStatus::exited(-1).client_status(), 255);
}

/// One step of whatever may happen to some calls.
#[derive(Debug, Clone)]
enum Step {
    Input(u8, u16),
    Output(u8, u16),
    ToAgent(u16),
    ToDaemon(u16),
    TakeInput(u8, u16),
    TakeOutput(u8, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let call = 0_u8..3;
    prop_oneof![
        (call.clone(), 1_u16..5000).prop_map(|(call, n)| Step::Input(call, n)),
        (call.clone(), 1_u16..5000).prop_map(|(call, n)| Step::Output(call, n)),
        (1_u16..2049).prop_map(Step::ToAgent),
        (1_u16..1025).prop_map(Step::ToDaemon),
        (call.clone(), 0_u16..4000).prop_map(|(call, n)| Step::TakeInput(call, n)),
        (call, 0_u16..4000).prop_map(|(call, n)| Step::TakeOutput(call, n)),
    ]
}

/// Bytes that show to which call and place they belong.
fn pattern(call: u8, from: usize, n: usize) -> Vec<u8> {
    (from..from + n).map(|at| (at as u8).wrapping_mul(31) ^ call.wrapping_mul(97)).collect()
}

/// The data of a client's local messages.
fn data_of(mut bytes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<8>() {
        let header = crate::header::Header::from_bytes(*header);
        let (body, rest) = rest.split_at(header.len as usize);
        assert!(body.len() <= MAX_DATA);
        data.extend_from_slice(body);
        bytes = rest;
    }
    data
}

proptest! {
    /// In any order of events every byte arrives once, in order, at its own call, and not much more is kept than is on
    /// the way.
    #[test]
    fn every_byte_arrives_where_it_belongs(steps in proptest::collection::vec(step(), 1..300)) {
        let mut pair = Pair::default();
        let calls: Vec<CallKey> = (0..3).map(|key| pair.begin(key)).collect();
        let mut sent = [[0_usize; 2]; 3];
        let mut input: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut output: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Input(call, n) if pair.daemon.may_read(ClientKey(call.into())) => {
                    let n = usize::from(n);
                    let so_far = &mut sent[usize::from(call)][0];
                    pair.daemon.read(ClientKey(call.into()), &pattern(call, *so_far, n));
                    *so_far += n;
                    prop_assert!(messages(pair.daemon.outgoing()).iter().all(|m| m.body.len() <= TO_AGENT_BODY));
                }
                Step::Output(call, n) if pair.agent.may_read(calls[usize::from(call)]) => {
                    let n = usize::from(n);
                    let so_far = &mut sent[usize::from(call)][1];
                    pair.agent.read(calls[usize::from(call)], Stream::Stdout, &pattern(call, *so_far, n));
                    *so_far += n;
                    prop_assert!(messages(pair.agent.outgoing()).iter().all(|m| m.body.len() <= TO_DAEMON_BODY));
                }
                Step::ToAgent(n) => pair.move_to_agent(n.into()),
                Step::ToDaemon(n) => pair.move_to_daemon(n.into()),
                Step::TakeInput(call, n) => take_input(&mut pair, &calls, call, n.into(), &mut input),
                Step::TakeOutput(call, n) => take_output(&mut pair, call, n.into(), &mut output),
                Step::Input(..) | Step::Output(..) => {}
            }
            prop_assert!(pair.agent.held() < 64 << 10 && pair.daemon.held() < 64 << 10);
        }
        for _ in 0..4 {
            pair.settle();
            for call in 0..3 {
                take_input(&mut pair, &calls, call, usize::MAX, &mut input);
                take_output(&mut pair, call, usize::MAX, &mut output);
            }
        }
        for call in 0..3_u8 {
            let [input_len, output_len] = sent[usize::from(call)];
            prop_assert_eq!(input.remove(&call).unwrap_or_default(), pattern(call, 0, input_len));
            let said = data_of(&output.remove(&call).unwrap_or_default());
            prop_assert_eq!(said, pattern(call, 0, output_len));
            prop_assert!(pair.daemon.may_read(ClientKey(call.into())) && pair.agent.may_read(calls[usize::from(call)]));
        }
    }

    /// Any bytes are messages or a breach, whatever the pieces in which they come.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0_usize..600) {
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        let mut pieces = AgentMux::default();
        let in_pieces = pieces.handle_bytes(first).and_then(|()| pieces.handle_bytes(second));
        prop_assert_eq!(in_pieces, AgentMux::default().handle_bytes(&bytes));
        let _ = DaemonMux::default().handle_bytes(&bytes);
    }
}

fn take_input(pair: &mut Pair, calls: &[CallKey], call: u8, n: usize, into: &mut BTreeMap<u8, Vec<u8>>) {
    let key = calls[usize::from(call)];
    let taken: Vec<u8> = pair.agent.pending(key).iter().take(n).copied().collect();
    pair.agent.wrote(key, taken.len());
    pair.agent.blocked(key);
    into.entry(call).or_default().extend(taken);
}

fn take_output(pair: &mut Pair, call: u8, n: usize, into: &mut BTreeMap<u8, Vec<u8>>) {
    let key = ClientKey(call.into());
    let taken: Vec<u8> = pair.daemon.pending(key).iter().take(n).copied().collect();
    pair.daemon.wrote(key, taken.len());
    pair.daemon.blocked(key);
    into.entry(call).or_default().extend(taken);
}
