//! Packages of the test's own: one that stands for upstream's, and one that needs it. Each is made and installed by a
//! script inside the system.

use crate::install::Side;

/// The package of upstream's that has this side's programs.
pub(super) fn name(side: Side) -> &'static str {
    if side.is_half() { "qubes-core-qrexec" } else { "qubes-core-agent" }
}

/// Upstream's package in this version: the same programs, one of them in the other spelling of its folder, the same units,
/// enabled as upstream enables them and masked while its package is removed, a service of the same name, and policy.
pub(super) fn upstream(side: Side, version: u32) -> String {
    let words = |words: &mut dyn Iterator<Item = &'static str>| words.collect::<Vec<_>>().join(" ");
    UPSTREAM
        .replace("@units@", &words(&mut side.units()))
        .replace("@programs@", &words(&mut side.programs()))
        .replace("@package@", name(side))
        .replace("@version@", &version.to_string())
}

const UPSTREAM: &str = r#"
mkdir -p /tmp/upstream/DEBIAN && cd /tmp/upstream || exit
other=
for program in @programs@; do
    place=usr/$program
    case $other$program in lib/qubes/*) other=done place=$program ;; esac
    mkdir -p "${place%/*}" && printf '#!/bin/sh\necho upstream @version@ of %s\n' "/usr/$program" >"$place" || exit
    chmod 755 "$place"
done
for unit in @units@; do
    mkdir -p usr/lib/systemd/system
    printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' >usr/lib/systemd/system/$unit || exit
done
mkdir -p etc/qubes-rpc etc/qubes/policy.d || exit
printf '#!/bin/sh\necho of upstream\n' >etc/qubes-rpc/qubes.WaitForSession
chmod 755 etc/qubes-rpc/qubes.WaitForSession
echo '# of upstream' >etc/qubes/policy.d/90-upstream.policy
(find usr lib -type f | xargs md5sum) >DEBIAN/md5sums 2>/dev/null
cd DEBIAN
printf '%s\n' /etc/qubes-rpc/qubes.WaitForSession /etc/qubes/policy.d/90-upstream.policy >conffiles
cat >control <<'END'
Package: @package@
Version: 4.4.2-@version@
Architecture: all
Maintainer: nobody <nobody@localhost>
Description: stands for upstream's
END
cat >postinst <<'END'
#!/bin/sh
for unit in @units@; do
    deb-systemd-helper unmask $unit && deb-systemd-helper enable $unit || exit
done
END
cat >postrm <<'END'
#!/bin/sh
[ -n "@units@" ] || exit 0
case $1 in
remove) deb-systemd-helper mask @units@ ;;
purge)
    deb-systemd-helper purge @units@
    deb-systemd-helper unmask @units@
    ;;
esac
END
chmod 755 postinst postrm
dpkg-deb --root-owner-group --build /tmp/upstream /tmp/upstream.deb && dpkg --force-confold --install /tmp/upstream.deb; status=$?
rm -r /tmp/upstream /tmp/upstream.deb; exit $status
"#;

/// A change that was stopped in its middle: half of the names are missing.
pub(super) fn interrupted(side: Side) -> String {
    let programs: Vec<String> = side.programs().step_by(2).map(|path| format!("/usr/{path}")).collect();
    format!("rm {} && qrexec-switch ours {}", programs.join(" "), side.name())
}

/// What an administrator has written stays when the package is updated; what they have taken away stays away.
pub(super) fn edited(side: Side) -> String {
    let Some(file) = side.conffiles().next() else { return "true".to_owned() };
    format!(
        "cp -p {file} /tmp/kept && echo '# edited' >>{file} && dpkg --install /run/package.deb && grep -qx '# edited' {file} && \
         rm {file} && dpkg --install /run/package.deb && test ! -e {file} && mv /tmp/kept {file}"
    )
}

/// A package that wants upstream's, in a version with sockets and policies of this form.
pub(super) const DEPENDANT: &str = r#"
mkdir -p /tmp/needs/DEBIAN && cat >/tmp/needs/DEBIAN/control <<'END' || exit
Package: needs-qrexec
Version: 1
Architecture: all
Maintainer: nobody <nobody@localhost>
Depends: qubes-core-qrexec (>= 4.2.0)
Description: needs upstream's
END
dpkg-deb --build /tmp/needs /tmp/needs.deb && dpkg --install /tmp/needs.deb && dpkg --purge needs-qrexec; status=$?
rm -r /tmp/needs /tmp/needs.deb; exit $status
"#;
