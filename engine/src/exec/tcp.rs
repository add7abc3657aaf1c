//! The address behind a service that is a link to `/dev/tcp…`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Why a link to `/dev/tcp…` gives no address; the call fails with 125.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TcpError {
    /// `/dev/tcp/` with nothing behind it, or an argument that begins with its last `+`.
    #[error("there is no host")]
    NoHost,
    /// The link leaves the port to the argument, and there is none.
    #[error("the service needs an argument with the port")]
    NoPort,
    /// The link names host and port, so an argument has no meaning.
    #[error("the service takes no argument")]
    UnexpectedArgument,
    /// Names are not looked up.
    #[error("the host is not a numeric address")]
    Host,
    /// Not a number from 1 to 65535 written without leading zero.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// A scope (`%eth0`) that is no interface of this machine.
    #[error("there is no such network interface")]
    Scope,
}

/// The address of a TCP service.
///
/// `target` is what follows `/dev/tcp` in the link: nothing, `/HOST` or `/HOST/PORT`. The argument
/// of the call completes it: the port, or host and port with a `+` between. Service names have no
/// colon, so in a host from the argument every other `+` stands for one.
///
/// # Errors
/// See [`TcpError`].
pub(super) fn address(target: &[u8], argument: Option<&str>) -> Result<SocketAddr, TcpError> {
    let target = std::str::from_utf8(target).map_err(|_| TcpError::Host)?;
    let argument = argument.filter(|argument| !argument.is_empty());
    let Some(target) = target.strip_prefix('/') else {
        let (host, port) = argument.ok_or(TcpError::NoPort)?.rsplit_once('+').ok_or(TcpError::NoPort)?;
        return socket_address(&host.replace('+', ":"), port);
    };
    match (target.split_once('/'), argument) {
        (Some((host, port)), None) => socket_address(host, port),
        (Some(_), Some(_)) => Err(TcpError::UnexpectedArgument),
        (None, Some(port)) => socket_address(target, port),
        (None, None) => Err(TcpError::NoPort),
    }
}

fn socket_address(host: &str, port: &str) -> Result<SocketAddr, TcpError> {
    if host.is_empty() {
        return Err(TcpError::NoHost);
    }
    let port = self::port(port)?;
    if host.contains([':', '%']) {
        let (address, scope) = scoped(host)?;
        return Ok(SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope)));
    }
    let address: IpAddr = host.parse().map_err(|_| TcpError::Host)?;
    Ok(SocketAddr::new(address, port))
}

fn port(text: &str) -> Result<u16, TcpError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain).ok_or(TcpError::Port)
}

/// An IPv6 address with its scope, 0 if it has none. The scope is a number or an interface's name.
fn scoped(host: &str) -> Result<(Ipv6Addr, u32), TcpError> {
    let (address, scope) = match host.split_once('%') {
        Some((address, scope)) => (address, self::scope(scope)?),
        None => (host, 0),
    };
    Ok((address.parse().map_err(|_| TcpError::Host)?, scope))
}

fn scope(text: &str) -> Result<u32, TcpError> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let any = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|_| TcpError::Scope)?;
    netdevice::name_to_index(any, text).map_err(|_| TcpError::Scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, argument: Option<&str>) -> Result<String, TcpError> {
        address(target.as_bytes(), argument).map(|address| address.to_string())
    }

    #[test]
    fn ports_are_plain_numbers() {
        for port in ["0", "080", "+80", "-1", "65536", "99999999999", "", "8o", " 80", "８０"] {
            assert!(check("/127.0.0.1", Some(port)).is_err(), "{port:?}");
        }
        assert_eq!(check("/127.0.0.1/65535", None).as_deref(), Ok("127.0.0.1:65535"));
        assert_eq!(check("/127.0.0.1/080", None), Err(TcpError::Port));
    }

    #[test]
    fn hosts_are_numeric() {
        for host in ["localhost", "a_b", "1.2.3", "1.2.3.4.5", "0x7f.1", "::1%", "1.2.3.4%1", "g::1"] {
            assert!(check(&format!("/{host}"), Some("80")).is_err(), "{host:?}");
        }
        assert_eq!(check("", Some("127_0.0.1+80")), Err(TcpError::Host));
        assert_eq!(check("/fe80::1%7", Some("80")).as_deref(), Ok("[fe80::1%7]:80"));
        assert_eq!(check("/fe80::1%nosuchinterface", Some("80")), Err(TcpError::Scope));
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(check("", None), Err(TcpError::NoPort));
        assert_eq!(check("", Some("80")), Err(TcpError::NoPort));
        assert_eq!(check("", Some("+80")), Err(TcpError::NoHost));
        assert_eq!(check("/", Some("80")), Err(TcpError::NoHost));
        assert_eq!(check("//80", None), Err(TcpError::NoHost));
        assert_eq!(check("/127.0.0.1", Some("")), Err(TcpError::NoPort));
        assert_eq!(check("/127.0.0.1/80", Some("")).as_deref(), Ok("127.0.0.1:80"));
        assert_eq!(check("/127.0.0.1/80", Some("x")), Err(TcpError::UnexpectedArgument));
        assert_eq!(check("/127.0.0.1/80/x", None), Err(TcpError::Port));
    }
}
