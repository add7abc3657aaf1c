//! Finding the agent, and the control link to it.

use std::time::Duration;

use daemon_core::Now;
use engine::link::{Framed, LinkError};
use engine::reactor::{Interest, Reactor};
use ring::{Channel, Connector, Transport};
use wire::control::MAX_LOCAL_BODY;
use wire::names::{DomainId, Port};

use super::peers::{Heard, forget, hear};
use super::token::Token;

/// Pause before the agent is looked for again after it went. An agent that comes and goes as fast as
/// it can costs no more than that.
const PAUSE: Duration = Duration::from_millis(100);
/// The same after it broke the protocol, or when there is no way to look for it.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// How the control link stands.
enum State {
    /// To be looked for, from this time on.
    Pausing { until: Now },
    /// Being looked for.
    Looking { connector: Connector, again: Option<Now> },
    /// Found.
    Linked { link: Box<Framed<Channel>>, out: bool },
}

/// What a step of the search came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Search {
    /// Nothing new.
    Goes,
    /// The link is there now.
    Found,
    /// The domain is gone, and with it every agent that could have come.
    Hopeless,
}

/// The daemon's side of the control link.
pub(super) struct AgentLink {
    transport: Transport,
    domain: DomainId,
    state: State,
}

impl AgentLink {
    /// A link to be made, at once, to the agent of `domain`.
    pub(super) fn new(transport: Transport, domain: DomainId) -> Self {
        Self { transport, domain, state: State::Pausing { until: Duration::ZERO } }
    }

    /// One step of the search, if it is time for one.
    pub(super) fn look(&mut self, reactor: &Reactor<Token>, now: Now, event: bool) -> Search {
        match &self.state {
            State::Pausing { until } if *until <= now => self.begin(reactor, now),
            State::Looking { again, .. } if event || again.is_some_and(|at| at <= now) => {}
            _ => return Search::Goes,
        }
        self.step(reactor, now)
    }

    fn begin(&mut self, reactor: &Reactor<Token>, now: Now) {
        tracing::debug!("looking for the agent of domain {}", self.domain);
        match self.transport.connect(self.domain.0, Port::CONTROL.0) {
            Ok(connector) => {
                if let Err(error) = reactor.add(&connector, Token::Agent, Interest::Read) {
                    tracing::error!("looking for the agent: {error}");
                    self.state = State::Pausing { until: now.saturating_add(LONG_PAUSE) };
                    return;
                }
                self.state = State::Looking { connector, again: None };
            }
            Err(error) => {
                tracing::error!("looking for the agent: {error}");
                self.state = State::Pausing { until: now.saturating_add(LONG_PAUSE) };
            }
        }
    }

    fn step(&mut self, reactor: &Reactor<Token>, now: Now) -> Search {
        let State::Looking { connector, again } = &mut self.state else { return Search::Goes };
        let (error, search) = match connector.poll() {
            Ok(None) => {
                *again = connector.retry_after().map(|pause| now.saturating_add(pause));
                return Search::Goes;
            }
            Ok(Some(channel)) => {
                forget(reactor, &*connector);
                match reactor.add(&channel, Token::Agent, Interest::Read) {
                    Ok(()) => {
                        let link = Box::new(Framed::new(channel, MAX_LOCAL_BODY));
                        self.state = State::Linked { link, out: false };
                        return Search::Found;
                    }
                    Err(error) => (ring::Error::io("watching the control link")(error.into()), Search::Goes),
                }
            }
            Err(error) => {
                forget(reactor, &*connector);
                let gone = matches!(error, ring::Error::Closed);
                (error, if gone { Search::Hopeless } else { Search::Goes })
            }
        };
        tracing::warn!("looking for the agent: {error}");
        self.state = State::Pausing { until: now.saturating_add(LONG_PAUSE) };
        search
    }

    /// When [`AgentLink::look`] has something to do without an event.
    pub(super) fn look_at(&self) -> Option<Now> {
        match &self.state {
            State::Pausing { until } => Some(*until),
            State::Looking { again, .. } => *again,
            State::Linked { .. } => None,
        }
    }

    /// To be called when the descriptor was ready and the link is there.
    pub(super) fn on_ready(&mut self) -> Result<(), LinkError> {
        match &mut self.state {
            State::Linked { link, .. } => link.on_ready(),
            State::Pausing { .. } | State::Looking { .. } => Ok(()),
        }
    }

    /// Queues a message.
    pub(super) fn send(&mut self, message: Vec<u8>) -> Result<(), LinkError> {
        match &mut self.state {
            State::Linked { link, .. } => link.send(message),
            State::Pausing { .. } | State::Looking { .. } => Ok(()),
        }
    }

    /// Bytes that the agent has yet to make room for.
    pub(super) fn queued(&self) -> usize {
        match &self.state {
            State::Linked { link, .. } => link.queued(),
            State::Pausing { .. } | State::Looking { .. } => 0,
        }
    }

    /// Before sleeping: sends what can be sent, asks to be woken. `true`: do not sleep.
    pub(super) fn arm(&mut self, reactor: &Reactor<Token>) -> Result<bool, LinkError> {
        let State::Linked { link, out } = &mut self.state else { return Ok(false) };
        let busy = link.arm()?;
        if link.wants_out() != *out {
            *out = link.wants_out();
            reactor.modify(&**link, Token::Agent, Interest::read_and(*out))?;
        }
        Ok(busy)
    }

    /// The next thing that the agent has to tell; `None` if there is no link.
    pub(super) fn hear(&mut self) -> Option<Heard> {
        match &mut self.state {
            State::Linked { link, .. } => Some(hear(link)),
            State::Pausing { .. } | State::Looking { .. } => None,
        }
    }

    /// Closes the link, to be looked for again soon, or a little later if it `misbehaved`.
    pub(super) fn drop_link(&mut self, reactor: &Reactor<Token>, now: Now, misbehaved: bool) {
        if let State::Linked { link, .. } = &self.state {
            forget(reactor, &**link);
            let pause = if misbehaved { LONG_PAUSE } else { PAUSE };
            self.state = State::Pausing { until: now.saturating_add(pause) };
        }
    }
}
