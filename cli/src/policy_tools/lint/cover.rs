//! Which rules decide everything that others would.

use policy::{Rule, Token};

/// Whether the first rule matches whatever the second one matches.
pub(in super::super) fn covers(first: &Rule, second: &Rule) -> bool {
    let wider = |wide: &Option<_>, narrow: &Option<_>| wide.is_none() || wide == narrow;
    wider(&first.service, &second.service)
        && wider(&first.argument, &second.argument)
        && covers_token(&first.source, &second.source)
        && covers_token(&first.target, &second.target)
}

fn covers_token(wide: &Token, narrow: &Token) -> bool {
    match wide {
        Token::Any => true,
        Token::AnyVm => matches!(
            narrow,
            Token::AnyVm
                | Token::Default
                | Token::DispVm
                | Token::DispVmOf(_)
                | Token::DispVmTag(_)
                | Token::Name(_)
        ),
        _ => wide == narrow,
    }
}
