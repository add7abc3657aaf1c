//! The services that every VM of a lab has, unless the lab is told otherwise: those with which one begins.

use super::plan::Source;
use super::usb;
use super::{Plan, filecopy};

/// A service: its name, its text, or none where the executable itself is it by that name; and its configuration.
struct Default {
    name: &'static str,
    text: Option<&'static str>,
    config: Option<(&'static str, &'static str)>,
}

const fn program(name: &'static str) -> Default {
    Default { name, text: None, config: None }
}

const SERVICES: &[Default] = &[
    Default {
        name: filecopy::NAME,
        text: Some(filecopy::SCRIPT),
        config: Some((filecopy::NAME, filecopy::CONFIG)),
    },
    Default {
        name: "qubes.VMShell",
        text: Some(include_str!("../../../dist/qubes-rpc/qubes.VMShell")),
        config: None,
    },
    Default {
        name: "qubes.VMRootShell",
        text: Some(include_str!("../../../dist/qubes-rpc/qubes.VMShell")),
        config: Some(("qubes.VMRootShell", include_str!("../../../dist/rpc-config/qubes.VMRootShell"))),
    },
    program("qubes.GetDate"),
    program("qubes.OpenInVM"),
    program("qubes.OpenURL"),
    program("qubes.VMExec"),
    program("qubes.VMExecGUI"),
    Default {
        name: "qubes.VMRootExec",
        text: None,
        config: Some(("qubes.VMRootExec", include_str!("../../../dist/rpc-config/qubes.VMRootExec"))),
    },
];

/// Files below a machine's folder that make its services: folder, name, what it is.
pub(super) fn files(plan: &Plan) -> impl Iterator<Item = (&'static str, &'static str, Source)> {
    let link = || Source::Link(plan.exe.clone());
    let script = |text: &str| Source::Script(text.to_owned());
    let usual = SERVICES.iter().filter(|_| !plan.bare).flat_map(move |service| {
        let what = service.text.map_or_else(link, script);
        let config = service.config.map(|(name, text)| ("rpc-config", name, script(text)));
        [Some(("rpc", service.name, what)), config].into_iter().flatten()
    });
    let usb = usb::SERVICES.iter().filter(|_| plan.usb.is_some());
    usual.chain(usb.map(move |name| ("rpc", *name, link())))
}
