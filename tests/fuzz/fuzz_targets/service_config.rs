//! Service configuration files: whatever is not understood fails the call, a line more never lifts a
//! restriction silently, and errors name a line of the file.
#![no_main]

use engine::exec::{Builtin, ConfigError, Existing, ServiceConfig};
use engine::fuzzing::service_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let lines = data.split(|byte| *byte == b'\n').count();
    let config = match service_config(data) {
        Ok((config, unknown)) => {
            assert!(unknown < lines + 1);
            config
        }
        Err(ConfigError::Line { line, .. }) => return assert!((1..=lines).contains(&line)),
        Err(ConfigError::ForceUserWith(_) | ConfigError::FilterWith(_)) => return,
    };
    assert!(config.force_user.is_none() || config.socket_only_key().is_none());
    assert!(config.filter.is_none() || !config.splice && config.builtin.is_none());
    assert_eq!(service_config(data), service_config(data));

    // A nonsensical line at the end spoils all of it; a comment changes nothing; so does writing it anew.
    assert!(service_config(&[data, b"\n nonsense"].concat()).is_err());
    assert_eq!(
        service_config(&[data, b"\n# a comment\r\n"].concat()).map(|(same, _)| same),
        Ok(config.clone())
    );
    assert_eq!(service_config(written(&config).as_bytes()), Ok((config, 0)));
});

/// Each setting as a line. A setting that this function does not know does not compile.
fn written(config: &ServiceConfig) -> String {
    let ServiceConfig {
        wait_for_session,
        skip_service_descriptor,
        exit_on_client_eof,
        exit_on_service_eof,
        splice,
        pipes,
        builtin,
        existing,
        filter,
        force_user,
    } = config;
    let mut text = format!(
        "wait-for-session={wait_for_session}\nskip-service-descriptor={skip_service_descriptor}\n\
         exit-on-client-eof={exit_on_client_eof}\nexit-on-service-eof={exit_on_service_eof}\n\
         splice={splice}\npipes={pipes}\n"
    );
    if let Some(Builtin::Filecopy) = builtin {
        text += "builtin='filecopy'\n";
    }
    let existing = match existing {
        Existing::Fail => "fail",
        Existing::Rename => "rename",
        Existing::NewFolder => "new-folder",
        Existing::SkipSame => "skip-same",
    };
    text += &format!("existing='{existing}'\n");
    if let Some(rules) = filter {
        text += &format!("filter='{}'\n", rules.words());
    }
    if let Some(user) = force_user {
        text += &format!("force-user='{user}'");
    }
    text
}
