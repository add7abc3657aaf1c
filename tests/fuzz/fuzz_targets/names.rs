//! Names of every type: a name that is accepted keeps to its alphabet and its length, and is accepted again;
//! a name that is made harmless is harmless.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy::split_service;
use wire::command::Requested;
use wire::names::{DomainName, IDENT_LEN, Ident, MAX_SERVICE, MAX_TARGET, ServiceName, Target};

fuzz_target!(|data: &[u8]| {
    let (by, bytes) = fuzz::split(data);
    let bytes = fuzz::stretched(bytes, by);
    target(&bytes);
    service(&bytes);
    ident(&bytes);
    if let Ok(text) = std::str::from_utf8(&bytes) {
        domain(text);
    }
});

fn all(text: &str, also: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

fn target(bytes: &[u8]) {
    let target = Target::sanitize(bytes);
    let text = target.as_str();
    assert!((1..=MAX_TARGET).contains(&text.len()) && all(text, "_-.@:"), "{text:?}");
    assert_eq!(Target::new(text).as_ref(), Ok(&target));
    assert_eq!(Target::sanitize(text.as_bytes()), target);
    let accepted = std::str::from_utf8(bytes).ok().and_then(|text| Target::new(text).ok());
    if let Some(accepted) = accepted {
        assert_eq!(accepted, target);
        assert_eq!(accepted.as_str().as_bytes(), bytes);
    }
    match Requested::new(&target) {
        Some(Requested::Keyword(word)) => assert_eq!(format!("@{word}"), text),
        Some(Requested::Name(name)) => assert_eq!(name, target),
        None => assert_eq!(text, "@"),
    }
}

fn service(bytes: &[u8]) {
    let Ok(service) = ServiceName::sanitize(bytes) else {
        return assert!(bytes.is_empty() || bytes.len() > MAX_SERVICE || bytes[0] == b'+');
    };
    let text = service.as_str();
    assert!(text.len() == bytes.len() && all(text, "_-.+") && !text.starts_with('+'));
    assert_eq!(ServiceName::new(text).as_ref(), Ok(&service));
    let full = service.with_plus();
    assert_eq!(full, format!("{}+{}", service.name(), service.argument().unwrap_or_default()));
    let (name, argument) = split_service(text);
    assert_eq!((name, argument), (service.name(), &full[name.len()..]));
}

fn ident(bytes: &[u8]) {
    let Some(field) = bytes.first_chunk::<IDENT_LEN>() else { return };
    let Ok(ident) = Ident::from_bytes(*field) else { return };
    assert!(all(ident.as_str(), "_-. ") && ident.as_str().len() < IDENT_LEN);
    assert_eq!(ident.to_bytes(), *field);
    assert_eq!(Ident::new(ident.as_str()), Ok(ident));
    if let Some(number) = ident.number() {
        assert_eq!(Ident::numbered(number), ident);
    }
}

fn domain(text: &str) {
    let Ok(domain) = DomainName::new(text) else { return };
    assert!((1..=MAX_TARGET).contains(&text.len()) && all(text, "_-.") && !text.starts_with(['-', '.']));
    assert_eq!(domain.as_str(), text);
    assert_eq!(Target::from(&domain).as_str(), text);
}
