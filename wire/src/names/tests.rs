use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::error::Breach;

#[test]
fn services_split_at_the_first_plus() {
    let plain = ServiceName::new("qubes.Filecopy").unwrap();
    assert_eq!((plain.name(), plain.argument()), ("qubes.Filecopy", None));
    assert_eq!(plain.with_plus(), "qubes.Filecopy+");
    let empty = ServiceName::new("a+").unwrap();
    assert_eq!((empty.name(), empty.argument()), ("a", Some("")));
    let two = ServiceName::new("a+b+c").unwrap();
    assert_eq!((two.name(), two.argument()), ("a", Some("b+c")));
    assert_eq!(two.with_plus(), "a+b+c");
}

#[test]
fn services_are_sanitized_or_refused() {
    assert_eq!(ServiceName::sanitize(b"a/../b c\xff@+x").unwrap().as_str(), "a_.._b_c__+x");
    assert_eq!(ServiceName::sanitize(b""), Err(NameError::Empty));
    assert_eq!(ServiceName::sanitize(b"+a"), Err(NameError::BadStart('+')));
    assert_eq!(ServiceName::new("a b"), Err(NameError::BadByte(b' ')));
    assert!(ServiceName::sanitize(&vec![b'a'; MAX_SERVICE]).is_ok());
    let long = vec![b'a'; MAX_SERVICE + 1];
    let error = NameError::TooLong { len: MAX_SERVICE + 1, max: MAX_SERVICE };
    assert_eq!(ServiceName::sanitize(&long), Err(error));
}

#[test]
fn targets() {
    assert_eq!(Target::sanitize(b"").as_str(), "@default");
    assert_eq!(Target::sanitize(b"$adminvm").as_str(), "_adminvm");
    assert_eq!(Target::sanitize(b"@dispvm:work-1.x").as_str(), "@dispvm:work-1.x");
    assert_eq!(Target::sanitize(&[b'a'; 99]).as_str().len(), MAX_TARGET);
    assert_eq!(Target::new("@default").unwrap().keyword(), Some("default"));
    assert_eq!(Target::new("a/b"), Err(NameError::BadByte(b'/')));
    for dom0 in ["dom0", "@adminvm", "uuid:00000000-0000-0000-0000-000000000000"] {
        assert!(Target::new(dom0).unwrap().is_dom0());
    }
    assert!(!Target::new("dom01").unwrap().is_dom0());
}

#[test]
fn domain_names_are_safe_in_paths() {
    assert_eq!(DomainName::new("sys-net").unwrap().as_str(), "sys-net");
    for bad in ["", "-x", ".", "..", "a/b", "a b", "@anyvm", "a\n", "é"] {
        assert!(DomainName::new(bad).is_err(), "{bad:?}");
    }
    assert!(DomainName::new(&"a".repeat(MAX_TARGET)).is_ok());
    assert!(DomainName::new(&"a".repeat(MAX_TARGET + 1)).is_err());
}

#[test]
fn idents() {
    let numbered = Ident::numbered(u64::MAX);
    assert_eq!(numbered.as_str(), "SOCKET18446744073709551615");
    assert_eq!(numbered.number(), Some(u64::MAX));
    assert_eq!(Ident::new("SOCKET").unwrap().number(), None);
    assert_eq!(Ident::new("SOCKET+1"), Err(Breach::Ident));
    assert_eq!(Ident::new("SOCKET01").unwrap().number(), None);
    assert_eq!(Ident::new("2 3 4").unwrap().as_str(), "2 3 4");
    assert!(Ident::new(&"a".repeat(31)).is_ok());
    assert_eq!(Ident::new(&"a".repeat(32)), Err(Breach::Ident));
    assert_eq!(Ident::from_bytes([b'a'; IDENT_LEN]), Err(Breach::Ident));
    let mut after_nul = [0; IDENT_LEN];
    after_nul[3] = b'x';
    assert_eq!(Ident::from_bytes(after_nul), Err(Breach::Ident));
    assert_eq!(Ident::from_bytes([0; IDENT_LEN]).unwrap().as_str(), "");
    assert_eq!(Ident::numbered(7).to_string(), "SOCKET7");
}

proptest! {
    #[test]
    fn sanitizing_yields_what_checking_accepts(bytes: Vec<u8>) {
        let target = Target::sanitize(&bytes);
        prop_assert_eq!(Target::new(target.as_str()), Ok(target.clone()));
        if let Ok(service) = ServiceName::sanitize(&bytes) {
            prop_assert_eq!(service.as_str().len(), bytes.len());
            prop_assert_eq!(ServiceName::new(service.as_str()), Ok(service.clone()));
            let rebuilt: String = match service.argument() {
                Some(argument) => [service.name(), "+", argument].concat(),
                None => service.name().into(),
            };
            prop_assert_eq!(rebuilt, service.as_str());
        }
    }

    #[test]
    fn checked_names_are_left_alone(name in "[A-Za-z0-9_.-][A-Za-z0-9_.+-]{0,80}") {
        prop_assert_eq!(ServiceName::sanitize(name.as_bytes()), ServiceName::new(&name));
    }

    #[test]
    fn idents_round_trip(text in "[0-9A-Za-z_. -]{0,31}") {
        let ident = Ident::new(&text).unwrap();
        prop_assert_eq!(ident.as_str(), &text);
        prop_assert_eq!(Ident::from_bytes(ident.to_bytes()), Ok(ident));
    }

    #[test]
    fn any_field_is_an_ident_or_a_breach(bytes: [u8; IDENT_LEN]) {
        if let Ok(ident) = Ident::from_bytes(bytes) {
            prop_assert_eq!(ident.to_bytes(), bytes);
        }
    }
}
