//! Packages of the test's own: one that stands for upstream's, and one that needs it. Each is made and installed by a
//! script inside the system.

use crate::install::Side;

/// Upstream's package: the same units, enabled as upstream enables them and masked while its package is removed, a
/// service of the same name, and policy.
pub(super) fn field(side: Side) -> String {
    FIELD.replace("@units@", &side.units().collect::<Vec<_>>().join(" "))
}

const FIELD: &str = r#"
mkdir -p /tmp/field/DEBIAN /tmp/field/usr/lib/systemd/system && cd /tmp/field/usr/lib/systemd/system || exit
for unit in @units@; do
    printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' >$unit || exit
done
mkdir -p /tmp/field/etc/qubes-rpc /tmp/field/etc/qubes/policy.d && cd /tmp/field || exit
printf '#!/bin/sh\necho of upstream\n' >etc/qubes-rpc/qubes.WaitForSession
chmod 755 etc/qubes-rpc/qubes.WaitForSession
echo '# of upstream' >etc/qubes/policy.d/90-field.policy
cd DEBIAN
printf '%s\n' /etc/qubes-rpc/qubes.WaitForSession /etc/qubes/policy.d/90-field.policy >conffiles
cat >control <<'END'
Package: qubes-core-qrexec
Version: 4.4.2-1
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
case $1 in
remove) deb-systemd-helper mask @units@ ;;
purge)
    deb-systemd-helper purge @units@
    deb-systemd-helper unmask @units@
    ;;
esac
END
chmod 755 postinst postrm
dpkg-deb --root-owner-group --build /tmp/field /tmp/field.deb && dpkg --install /tmp/field.deb; status=$?
rm -r /tmp/field /tmp/field.deb; exit $status
"#;

/// Upstream's package gave way, its policy did not.
pub(super) const POLICY_STAYS: &str = "! dpkg --status qubes-core-qrexec | grep -q '^Status: .* installed$' && \
    test -e /etc/qubes/policy.d/90-field.policy && ! grep field /etc/qubes-rpc/qubes.WaitForSession";

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
