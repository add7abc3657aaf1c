//! The control link: what the VM's agent may say, and what its loss means.

use wire::control::{Endpoint, Message, PeerInfo, check_trigger_version};
use wire::error::{Breach, PeerError};
use wire::frame::Frame;
use wire::header::ty;
use wire::version::Version;

use super::{Core, HELLO_LIMIT, Level, MESSAGE_LIMIT, Now, Output, Timer, to_agent};

/// How far the control link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agent {
    /// There is none.
    Absent,
    /// It is there and owes its HELLO.
    Greeting,
    /// It is there and speaks this version.
    Present(Version),
}

impl Core {
    /// The control link is there; the agent, its server, speaks first.
    pub fn handle_agent_connected(&mut self, now: Now) {
        self.agent = Agent::Greeting;
        self.timers.set(Timer::Agent, now.saturating_add(HELLO_LIMIT));
    }

    /// The agent sent a message.
    pub fn handle_agent_frame(&mut self, now: Now, frame: &Frame) {
        self.latest = now;
        let result = match self.agent {
            Agent::Absent => Ok(()),
            Agent::Greeting => self.agent_hello(frame),
            Agent::Present(version) => self.agent_message(now, version, frame),
        };
        if let Err(error) = result {
            self.drop_agent(error.to_string());
        }
    }

    /// The driver has read what there was; `mid_message` tells whether a message has begun and not
    /// ended.
    pub fn handle_agent_read(&mut self, now: Now, mid_message: bool) {
        match (self.agent, mid_message) {
            (Agent::Present(_), true) => {
                self.timers.set_once(Timer::Agent, now.saturating_add(MESSAGE_LIMIT));
            }
            (Agent::Present(_), false) => self.timers.clear(Timer::Agent),
            // The limit for the whole HELLO holds.
            (Agent::Absent | Agent::Greeting, _) => {}
        }
    }

    /// The control link is gone, closed by the other side or broken.
    ///
    /// Local clients are closed: their calls may well go on, but nobody would tell when they end.
    /// For the same reason the ports stay reserved. Whoever waits for an answer waited for that agent.
    pub fn handle_agent_lost(&mut self) {
        let was = std::mem::replace(&mut self.agent, Agent::Absent);
        self.timers.clear(Timer::Agent);
        if matches!(was, Agent::Present(_)) {
            self.put(Output::Withdraw);
        }
        self.served.forget();
        self.forget_dom0s_calls();
        self.close_all_clients();
        self.forget_calls();
    }

    pub(super) fn agent_too_slow(&mut self) {
        let reason = match self.agent {
            Agent::Present(_) => "a message was left half sent",
            Agent::Absent | Agent::Greeting => "no HELLO in time",
        };
        self.drop_agent(reason.to_owned());
    }

    /// Sends a message, if there is still somebody to send it to.
    pub(super) fn send_agent(&mut self, message: &Message) {
        if self.agent == Agent::Absent {
            return;
        }
        match to_agent(message) {
            Ok(bytes) => self.put(Output::SendAgent(bytes)),
            // Only command lines have no fixed length, and those are measured where they come in.
            Err(error) => self.log(Level::Warn, format!("not sent to the agent: {error}")),
        }
    }

    fn drop_agent(&mut self, reason: String) {
        self.handle_agent_lost();
        self.put(Output::DropAgent(reason));
    }

    fn agent_hello(&mut self, frame: &Frame) -> Result<(), PeerError> {
        if frame.ty != ty::HELLO {
            return Err(Breach::UnexpectedType(frame.ty).into());
        }
        let theirs = PeerInfo::decode(&frame.body)?.version;
        let version = Version::negotiate(theirs)?;
        // Upstream's daemon answers with the agent's own number, and its agents count on that.
        self.send_agent(&Message::Hello(theirs));
        self.agent = Agent::Present(version);
        self.timers.clear(Timer::Agent);
        self.log(Level::Info, format!("the agent is there and speaks protocol {version}"));
        self.put(Output::Serve);
        Ok(())
    }

    fn agent_message(&mut self, now: Now, version: Version, frame: &Frame) -> Result<(), PeerError> {
        check_trigger_version(frame.ty, version)?;
        match Message::decode(frame.ty, &frame.body)? {
            Message::Trigger(trigger) => self.call_wanted(now, trigger),
            // The agent may have passed on what its client sent: that one is refused, and the link goes on.
            Message::BadTrigger(bad) => {
                self.send_agent(&Message::BadTrigger(bad));
                let line = format!("{}: {bad}", self.settings.name);
                self.log(Level::Warn, line);
            }
            Message::ConnectionTerminated(endpoint) => self.data_link_ended(now, endpoint),
            Message::Hello(_) | Message::Exec { .. } | Message::ServiceConnect(_) | Message::Refused(_) => {
                return Err(Breach::UnexpectedType(frame.ty).into());
            }
        }
        Ok(())
    }

    /// A data link of the VM is gone. Its port is free if it was handed out here; the other daemon's
    /// ports are reported here too, and those of calls that an earlier daemon began.
    fn data_link_ended(&mut self, now: Now, Endpoint { domain, port }: Endpoint) {
        if self.ports.release(domain, port) {
            self.served.end(port);
            self.port_released(now, port);
        }
    }
}
