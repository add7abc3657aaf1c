//! The pipe on which programs of this VM ask for services, one thread for each of them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use agent_core::{CallId, ClientId};
use wire::control::Endpoint;
use wire::frame::LocalTriggerDecoder;
use wire::header::ty;
use wire::trigger::{BadTrigger, TRIGGER2_LEN, Trigger};

use crate::log;
use crate::places::Places;
use crate::sys::event::Event;
use crate::sys::pipe::{PipeEnd, PipeRead};

/// How many programs may be connected at once. Each has a thread; further ones wait.
const MAX_CALLERS: usize = 200;
/// How long a program may take to send its request, and to read its answer.
const REQUEST: Duration = Duration::from_secs(10);
/// How long to wait until the next attempt to make an end of the pipe.
const PAUSE: Duration = Duration::from_millis(200);

/// What the threads of programs and calls report to the agent.
pub(crate) enum Happened {
    /// A program asks for a service.
    Asked(ClientId, Result<Trigger, BadTrigger>, Caller),
    /// A program went away.
    CallerGone(ClientId),
    /// A call has ended.
    CallEnded(CallId),
}

/// The agent's answer to a program.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Where its service will be.
    Connect(Endpoint),
    /// The connection is closed.
    Close,
}

/// The agent's side of one program's connection.
#[derive(Debug)]
pub(crate) struct Caller {
    answers: Sender<Answer>,
    event: Arc<Event>,
}

impl Caller {
    /// Sends the answer to the program's thread.
    pub(crate) fn tell(&self, answer: Answer) {
        // A program that is gone gets no answer.
        let _ = self.answers.send(answer);
        self.event.set();
    }
}

/// How the threads report to the agent.
#[derive(Clone)]
pub(crate) struct Asked {
    /// The reports.
    pub(crate) happened: Sender<Happened>,
    /// Set when there is a report.
    pub(crate) wake: Arc<Event>,
}

impl Asked {
    pub(crate) fn tell(&self, what: Happened) {
        // It fails only if the agent has ended, and then this process ends too.
        let _ = self.happened.send(what);
        self.wake.set();
    }
}

/// Accepts programs from now on.
pub(crate) fn begin(asked: Asked) -> io::Result<()> {
    let mut end = PipeEnd::new(true)?;
    std::thread::spawn(move || {
        let places = Places::new(MAX_CALLERS);
        let mut next = 0;
        loop {
            let accepted = end.accept();
            let place = places.take();
            let another = loop {
                match PipeEnd::new(false) {
                    Ok(another) => break another,
                    Err(error) => {
                        log::line(format_args!("no further program can ask: {error}"));
                        // Windows reports no event when it has resources again.
                        std::thread::sleep(PAUSE);
                    }
                }
            };
            let end = std::mem::replace(&mut end, another);
            if accepted.is_err() {
                continue;
            }
            let (id, asked) = (ClientId(next), asked.clone());
            next = next.wrapping_add(1);
            let serve = move || {
                let _place = place;
                if let Err(error) = hear(&end, id, &asked) {
                    log::line(format_args!("a program's request: {error}"));
                }
            };
            if let Err(error) = std::thread::Builder::new().spawn(serve) {
                log::line(format_args!("a program cannot ask, no thread for it: {error}"));
            }
        }
    });
    Ok(())
}

/// Serves one program until it is gone.
fn hear(end: &PipeEnd, id: ClientId, asked: &Asked) -> io::Result<()> {
    let Some(request) = request(end)? else { return Ok(()) };
    let event = Arc::new(Event::new()?);
    let (answers, told) = channel();
    asked.tell(Happened::Asked(id, request, Caller { answers, event: event.clone() }));
    let result = answer(end, &told, &event);
    asked.tell(Happened::CallerGone(id));
    result
}

fn request(end: &PipeEnd) -> io::Result<Option<Result<Trigger, BadTrigger>>> {
    let until = Instant::now() + REQUEST;
    let mut decoder = LocalTriggerDecoder::new();
    let mut buffer = [0; 4096];
    loop {
        let count = match end.read(&mut buffer, None, Some(until))? {
            PipeRead::Bytes(count) => count,
            PipeRead::Late => return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not come")),
            PipeRead::End | PipeRead::Other => return Ok(None),
        };
        if !decoder.has_begun() && is_of_r2(buffer.get(..count).unwrap_or_default()) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it is one of R2, which is not served"));
        }
        match decoder.feed(buffer.get(..count).unwrap_or_default()) {
            Ok(None) => {}
            Ok(Some(request)) => return Ok(Some(request)),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
        }
    }
}

/// Whether a program of R2 asks: its message has no header, and it waits for three handles where later ones wait for a
/// port.
fn is_of_r2(message: &[u8]) -> bool {
    let kind = message.first_chunk::<4>().map(|kind| u32::from_le_bytes(*kind));
    let with_header = [ty::TRIGGER_SERVICE, ty::TRIGGER_SERVICE3, ty::TRIGGER_SERVICE4];
    message.len() == TRIGGER2_LEN && kind.is_some_and(|kind| !with_header.contains(&kind))
}

/// Sends the agent's answers to the program, until one of the two ends the connection.
fn answer(end: &PipeEnd, told: &Receiver<Answer>, event: &Event) -> io::Result<()> {
    let mut buffer = [0; 64];
    loop {
        for answer in told.try_iter() {
            match answer {
                Answer::Connect(endpoint) => end.write(&endpoint.to_bytes(), Instant::now() + REQUEST)?,
                Answer::Close => return Ok(()),
            }
        }
        match end.read(&mut buffer, Some(event), None)? {
            PipeRead::Other => {}
            // The program sends nothing more that matters.
            PipeRead::Bytes(0) => {}
            PipeRead::Bytes(_) | PipeRead::End | PipeRead::Late => return Ok(()),
        }
    }
}
