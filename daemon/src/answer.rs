//! The answer of a policy program: lines of `key=value`, as the policy socket gives them too.

use daemon_core::question::{Allow, User, Verdict};
pub use policy::MAX_ANSWER;
use wire::names::{ServiceName, Target};

/// A well-formed answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The decision.
    pub verdict: Verdict,
    /// Keys that mean nothing here; for the log.
    pub unknown: Vec<String>,
}

/// Why an answer cannot be used. The call is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Nothing came.
    #[error("the answer is empty")]
    Empty,
    /// More than any answer needs.
    #[error("the answer has {MAX_ANSWER} bytes or more")]
    TooLong,
    /// Not text, or text with a NUL or another control character in it.
    #[error("the answer is not plain text")]
    NotText,
    /// A line without `=`.
    #[error("a line of the answer has no `=`")]
    NoKey,
    /// The same key twice.
    #[error("{0} is there twice")]
    Repeated(&'static str),
    /// A key that must be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A key that a denial does not have.
    #[error("{0} has no place in a denial")]
    Misplaced(&'static str),
    /// A value that the key cannot have.
    #[error("{0} has a value that it cannot have")]
    Value(&'static str),
    /// A name that makes sense where it comes from, but by which no call can be made.
    #[error("{0} is a name that cannot be used")]
    Impossible(&'static str),
}

/// The values by key, none of them looked at yet.
#[derive(Default)]
struct Fields<'a> {
    values: [Option<&'a str>; KEYS.len()],
}

const KEYS: [&str; 8] =
    ["result", "user", "target", "target_uuid", "autostart", "requested_target", "service", "policy_source"];

/// Reads an answer; one final newline is allowed.
///
/// # Errors
/// Anything that is not exactly an allowance with all that it needs, or a denial alone.
pub fn parse(bytes: &[u8]) -> Result<Answer, Malformed> {
    if bytes.len() >= MAX_ANSWER {
        return Err(Malformed::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::NotText)?;
    if text.contains(|c: char| c.is_control() && c != '\n') {
        return Err(Malformed::NotText);
    }
    let text = text.strip_suffix('\n').unwrap_or(text);
    if text.is_empty() {
        return Err(Malformed::Empty);
    }
    let (fields, unknown) = Fields::read(text)?;
    let verdict = match fields.required("result")? {
        // Another policy program would decide the same, and might ask the user once more.
        "allow" => match fields.allow() {
            Ok(allow) => Verdict::Allow(Box::new(allow)),
            Err(Malformed::Impossible(key)) => {
                Verdict::deny(format!("allowed by the policy program, but {}", Malformed::Impossible(key)))
            }
            Err(error) => return Err(error),
        },
        "deny" => fields.deny()?,
        _ => return Err(Malformed::Value("result")),
    };
    Ok(Answer { verdict, unknown })
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<(Self, Vec<String>), Malformed> {
        let mut fields = Self::default();
        let mut unknown = Vec::new();
        for line in text.split('\n') {
            let (key, value) = line.split_once('=').ok_or(Malformed::NoKey)?;
            let place = KEYS.iter().zip(&mut fields.values).find(|(name, _)| **name == key);
            match place {
                Some((name, Some(_))) => return Err(Malformed::Repeated(name)),
                Some((_, slot)) => *slot = Some(value),
                None => unknown.push(key.to_owned()),
            }
        }
        Ok((fields, unknown))
    }

    fn optional(&self, key: &'static str) -> Option<&'a str> {
        KEYS.iter().zip(self.values).find(|(name, _)| **name == key).and_then(|(_, value)| value)
    }

    fn required(&self, key: &'static str) -> Result<&'a str, Malformed> {
        self.optional(key).ok_or(Malformed::Missing(key))
    }

    /// A name that `make` accepts.
    fn named<T>(
        &self,
        key: &'static str,
        make: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, Malformed> {
        self.optional(key).map(|name| make(name).ok_or(Malformed::Impossible(key))).transpose()
    }

    fn allow(&self) -> Result<Allow, Malformed> {
        let uuid = |text: &str| {
            let by_uuid = text.strip_prefix("@dispvm:").unwrap_or(text).starts_with("uuid:");
            if by_uuid { target(text) } else { None }
        };
        let flag = |text: &str| match text {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        };
        // First whether it is an answer at all, then whether that can be carried out.
        for key in ["user", "target", "requested_target"] {
            self.required(key)?;
        }
        let autostart = self.required("autostart")?;
        let autostart = flag(autostart).ok_or(Malformed::Value("autostart"))?;
        let needed = |key| self.named(key, target)?.ok_or(Malformed::Missing(key));
        let user = self.named("user", |name| User::new(name).ok())?;
        let (to, target_uuid) = (needed("target")?, self.named("target_uuid", uuid)?);
        if target_uuid.as_ref().is_some_and(|uuid| !agree(&to, uuid)) {
            return Err(Malformed::Impossible("target_uuid"));
        }
        Ok(Allow {
            user: user.ok_or(Malformed::Missing("user"))?,
            target: to,
            target_uuid,
            autostart,
            requested_target: needed("requested_target")?,
            service: self.named("service", |text| ServiceName::new(text).ok())?,
            policy_source: self.named("policy_source", target)?,
            rule: None,
        })
    }

    fn deny(&self) -> Result<Verdict, Malformed> {
        let others = KEYS.iter().zip(self.values).filter(|(key, _)| **key != "result");
        match others.into_iter().find(|(_, value)| value.is_some()) {
            Some((key, _)) => Err(Malformed::Misplaced(key)),
            None => Ok(Verdict::deny("by the policy program")),
        }
    }
}

/// Whether a target and its UUID can mean the same place: both a disposable or neither, and not dom0, which has no UUID
/// in an answer. Whoever asks by the one and acts by the other must not be led to two places.
fn agree(target: &Target, uuid: &Target) -> bool {
    let disposable = |name: &Target| name.as_str().starts_with("@dispvm:");
    let place = uuid.as_str().strip_prefix("@dispvm:").unwrap_or(uuid.as_str());
    let is_dom0 = target.is_dom0() || self::target(place).is_none_or(|place| place.is_dom0());
    disposable(target) == disposable(uuid) && !is_dom0
}

fn target(text: &str) -> Option<Target> {
    Target::new(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALLOW: &str = "user=DEFAULT\nresult=allow\ntarget=vault\ntarget_uuid=uuid:12-ab\nautostart=True\n\
                         requested_target=@default\nservice=a.B+c\npolicy_source=far";

    fn allow(text: &str) -> Result<Allow, Malformed> {
        match parse(text.as_bytes())?.verdict {
            Verdict::Allow(allow) => Ok(*allow),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_allowance() {
        let allowed = allow(ALLOW).unwrap();
        assert_eq!(allowed.user.as_str(), "DEFAULT");
        assert_eq!(allowed.daemon().as_str(), "uuid:12-ab");
        assert!(allowed.autostart && !allowed.is_for_dom0());
        assert_eq!(allowed.requested_target.as_str(), "@default");
        assert_eq!(allowed.service.unwrap().as_str(), "a.B+c");
        assert_eq!(allowed.policy_source.unwrap().as_str(), "far");
    }

    #[test]
    fn the_least_allowance_and_one_newline() {
        let text = "result=allow\nuser=root\ntarget=dom0\nautostart=False\nrequested_target=dom0\n";
        let allowed = allow(text).unwrap();
        assert!(allowed.is_for_dom0() && !allowed.autostart && allowed.service.is_none());
        assert_eq!(parse(format!("{text}\n").as_bytes()).unwrap_err(), Malformed::NoKey);
    }

    #[test]
    fn a_denial_stands_alone() {
        assert!(matches!(parse(b"result=deny").unwrap().verdict, Verdict::Deny(_)));
        assert_eq!(parse(b"result=deny\nuser=x").unwrap_err(), Malformed::Misplaced("user"));
    }

    #[test]
    fn unknown_keys_are_told_and_ignored() {
        let answer = parse(b"colour=red\nresult=deny\n=").unwrap();
        assert_eq!(answer.unknown, ["colour", ""]);
    }

    #[test]
    fn everything_else_is_malformed() {
        use Malformed::{Empty, Missing, NoKey, NotText, Repeated, TooLong, Value};
        let long = format!("{ALLOW}\nx={}", "y".repeat(MAX_ANSWER));
        let cases = [
            ("", Empty),
            ("\n", Empty),
            ("result=deny\0", NotText),
            ("result=deny\r\n", NotText),
            ("deny", NoKey),
            ("result=deny\n\nx=y", NoKey),
            ("result=maybe", Value("result")),
            ("user=x", Missing("result")),
            ("result=deny\nresult=deny", Repeated("result")),
            (&ALLOW.replace("user=DEFAULT\n", ""), Missing("user")),
            (&ALLOW.replace("autostart=True\n", ""), Missing("autostart")),
            (&ALLOW.replace("requested_target=@default\n", ""), Missing("requested_target")),
            (&ALLOW.replace("autostart=True", "autostart=yes"), Value("autostart")),
            (&long, TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(parse(text.as_bytes()), Err(error), "{text:?}");
        }
        assert_eq!(parse(b"result=deny\nx=\xff"), Err(NotText));
    }

    /// Not malformed: nobody else is asked about it, and the user is not asked twice.
    #[test]
    fn what_is_understood_and_cannot_be_done_denies() {
        for (good, bad, key) in [
            ("target=vault", "target=../vault", "target"),
            ("uuid:12-ab", "12-ab", "target_uuid"),
            ("user=DEFAULT", "user=a:b", "user"),
            ("user=DEFAULT", "user=../b", "user"),
            ("user=DEFAULT", "user=", "user"),
            ("requested_target=@default", "requested_target=", "requested_target"),
            ("service=a.B+c", "service=+c", "service"),
            ("service=a.B+c", "service=a.B+uuid:1", "service"),
            ("policy_source=far", "policy_source=", "policy_source"),
        ] {
            let text = ALLOW.replace(good, bad);
            let Ok(Answer { verdict: Verdict::Deny(why), .. }) = parse(text.as_bytes()) else {
                panic!("{bad}");
            };
            assert_eq!(
                why,
                format!("allowed by the policy program, but {key} is a name that cannot be used")
            );
            let broken = text.replace("autostart=True", "autostart=yes");
            assert_eq!(parse(broken.as_bytes()), Err(Malformed::Value("autostart")), "{bad}");
        }
    }

    #[test]
    fn a_target_and_its_uuid_mean_one_place() {
        let with = |target: &str, uuid: &str| {
            let text = ALLOW.replace("target=vault", &format!("target={target}")).replace("uuid:12-ab", uuid);
            matches!(parse(text.as_bytes()).unwrap().verdict, Verdict::Allow(_))
        };
        assert!(with("vault", "uuid:12-ab") && with("@dispvm:vault", "@dispvm:uuid:12-ab"));
        let zero = "uuid:00000000-0000-0000-0000-000000000000";
        for (target, uuid) in [
            ("vault", "@dispvm:uuid:12-ab"),
            ("@dispvm:vault", "uuid:12-ab"),
            ("dom0", "uuid:12-ab"),
            ("@adminvm", "uuid:12-ab"),
            (zero, "uuid:12-ab"),
            ("dom0", zero),
            ("vault", zero),
            ("@dispvm:vault", &format!("@dispvm:{zero}")),
        ] {
            assert!(!with(target, uuid), "{target} {uuid}");
        }
        let dom0 = ALLOW.replace("target=vault", "target=@adminvm").replace("target_uuid=uuid:12-ab\n", "");
        assert!(allow(&dom0).unwrap().is_for_dom0());
    }

    /// A name as a system or a policy might have it, mostly one that can be used.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[a-z@:+_.-]{1,4}",
            2 => "[a-z]{60,70}",
            1 => "uuid:0{8}-0{4}-0{4}-0{4}-0{12}",
            1 => "\\PC{0,6}",
            1 => "[a-z]{4000,4100}",
        ]
    }

    proptest! {
        /// One set of rules for both: what the policy calls allowed is carried out here.
        #[test]
        fn what_the_policy_allows_is_understood(
            names in proptest::array::uniform6(name()), verb in 0..6_usize, remote in any::<bool>(), relayed in any::<bool>()
        ) {
            let [vault, uuid, user, transport, service, far] = names;
            let domain = |name: &str, kind: &str| policy::Domain {
                uuid: Some(uuid.clone()), relayvm: Some("relay".to_owned()), transport_rpc: Some(transport.clone()),
                template_for_dispvms: true, default_dispvm: Some(vault.clone()), ..policy::Domain::new(name, kind)
            };
            let kind = if remote { "RemoteVM" } else { "AppVM" };
            let all = [domain("work", "AppVM"), domain("relay", "AppVM"), domain(&far, "RemoteVM"), domain(&vault, kind)];
            let Ok(system) = policy::SystemInfo::new(all) else { return Ok(()) };
            let action = ["allow", "allow target=vault", "allow target=@dispvm", "ask", "ask target=@dispvm", "allow target=dom0"];
            let action = action[verb].replace("vault", &vault);
            let rules = policy::Files::new().policy("1.policy", format!("* * * * {action} user={user}\n"));
            let Ok(rules) = policy::Policy::compile(&rules) else { return Ok(()) };
            let mut request = policy::Request::new("relay", &vault, &service);
            request.requested_source = relayed.then_some(far.as_str());
            let decisions = match rules.decide(&system, &request) {
                policy::Decision::Ask(ask) => ask.choices.iter().map(|choice| ask.choose(&system, choice)).collect(),
                decision => vec![decision],
            };
            for decision in decisions {
                let read = parse(decision.answer().as_bytes()).map(|answer| answer.verdict);
                match decision {
                    policy::Decision::Allow(_) => prop_assert!(matches!(read, Ok(Verdict::Allow(_))), "{read:?}"),
                    _ => prop_assert!(matches!(read, Ok(Verdict::Deny(_))), "{read:?}"),
                }
            }
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_cut_allowance_never_allows(end in 0..ALLOW.len()) {
            let Ok(answer) = parse(&ALLOW.as_bytes()[..end]) else { return Ok(()) };
            // Cut behind the last needed key it may: what follows is optional.
            let needed = ALLOW.find("\nservice").unwrap();
            prop_assert!(end > needed - "@default".len() || matches!(answer.verdict, Verdict::Deny(_)));
        }
    }
}
