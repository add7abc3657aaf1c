#![forbid(unsafe_code)]
//! A seccomp filter in the form that the kernel runs: a search tree over the numbers of system calls.
//!
//! When a filter is installed the kernel runs it once for each number, to find the calls that it always allows. A list
//! that is searched from its top, as seccompiler makes one, takes as many steps for each of them as it has lines; this
//! tree takes about a dozen.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, sock_filter};

/// What happens to a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// It is allowed.
    Allow,
    /// It fails with `EPERM`.
    Refuse,
    /// It ends the process.
    Kill,
    /// It is allowed if the low 32 bits of this argument are one of these values.
    OneOf(u8, Vec<u32>),
    /// It is allowed if none of these bits of this argument is set.
    Without(u8, u32),
    /// It is allowed if each of these arguments has exactly this value, in all its bits.
    Exactly(Vec<(u8, u64)>),
    /// It ends the process unless one of these bits of this argument is set; then it fails.
    KillWithout(u8, u32),
    /// It ends the process unless one of these bits of this argument is set; then it is allowed.
    AllowWith(u8, u32),
    /// It fails as on a kernel that does not have it, so that an older call is tried whose arguments the filter can
    /// see.
    Missing,
}

static REFUSED: Rule = Rule::Refuse;

/// By number; every other number is refused.
pub(super) type Rules = BTreeMap<u32, Rule>;

/// Instructions of the kernel's `linux/filter.h`.
const LOAD: u16 = 0x20;
const IS: u16 = 0x15;
const IS_AT_LEAST: u16 = 0x35;
const HAS_BITS: u16 = 0x45;
const END: u16 = 0x06;

/// Results of a filter, from the kernel's `linux/seccomp.h`.
const KILL: u32 = 0x8000_0000;
const REFUSE: u32 = 0x0005_0000 | libc::EPERM.unsigned_abs();
const MISSING: u32 = 0x0005_0000 | libc::ENOSYS.unsigned_abs();
const ALLOW: u32 = 0x7fff_0000;

/// Offsets in `struct seccomp_data`, on a machine whose low half comes first.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(index: u8) -> u32 {
    16 + 8 * index as u32
}
const _: () = assert!(cfg!(target_endian = "little"));

/// Makes the program. `None`: there are too many rules for a jump, which is a bug of this code.
pub(super) fn assemble(arch: u32, rules: &Rules) -> Option<BpfProgram> {
    let mut program = vec![
        instruction(LOAD, 0, 0, ARCH),
        instruction(IS, 1, 0, arch),
        instruction(END, 0, 0, KILL),
        instruction(LOAD, 0, 0, NUMBER),
    ];
    program.extend(tree(&ranges(rules))?);
    Some(program)
}

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Where each rule begins to apply. Neighbouring numbers with the same rule are one range.
fn ranges<'a>(rules: &'a Rules) -> Vec<(u32, &'a Rule)> {
    let mut ranges: Vec<(u32, &'a Rule)> = vec![(0, &REFUSED)];
    let mut begin = |from: u32, rule: &'a Rule| {
        ranges.pop_if(|last| last.0 == from);
        if ranges.last().is_none_or(|last| last.1 != rule) {
            ranges.push((from, rule));
        }
    };
    for (number, rule) in rules {
        begin(*number, rule);
        if let Some(next) = number.checked_add(1) {
            begin(next, &REFUSED);
        }
    }
    ranges
}

/// Finds the range of a number and ends with the result of its rule.
fn tree(ranges: &[(u32, &Rule)]) -> Option<Vec<sock_filter>> {
    match ranges {
        [] => None,
        [(_, rule)] => leaf(rule),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (from, low, high) = (high.first()?.0, tree(low)?, tree(high)?);
            let mut program = vec![instruction(IS_AT_LEAST, u8::try_from(low.len()).ok()?, 0, from)];
            program.extend(low);
            program.extend(high);
            Some(program)
        }
    }
}

fn leaf(rule: &Rule) -> Option<Vec<sock_filter>> {
    let end = |with| instruction(END, 0, 0, with);
    Some(match rule {
        Rule::Allow => vec![end(ALLOW)],
        Rule::Refuse => vec![end(REFUSE)],
        Rule::Kill => vec![end(KILL)],
        Rule::OneOf(index, values) => {
            let mut program = vec![instruction(LOAD, 0, 0, argument(*index))];
            for (at, value) in values.iter().enumerate() {
                // Jumps over the values that are left, and over the end that refuses.
                let left = u8::try_from(values.len().checked_sub(at)?).ok()?;
                program.push(instruction(IS, left, 0, *value));
            }
            program.extend([end(REFUSE), end(ALLOW)]);
            program
        }
        Rule::Without(index, bits) => vec![
            instruction(LOAD, 0, 0, argument(*index)),
            instruction(HAS_BITS, 1, 0, *bits),
            end(ALLOW),
            end(REFUSE),
        ],
        Rule::Exactly(arguments) => {
            let halves = arguments.iter().flat_map(|(index, value)| {
                // The low half comes first.
                [(argument(*index), *value as u32), (argument(*index) + 4, (*value >> 32) as u32)]
            });
            let count = 2 * arguments.len();
            let mut program = Vec::new();
            for (at, (place, half)) in halves.enumerate() {
                // Jumps over the values that are left, two instructions each, and over the end that allows.
                let left = u8::try_from(2 * count.checked_sub(at + 1)? + 1).ok()?;
                program.extend([instruction(LOAD, 0, 0, place), instruction(IS, 0, left, half)]);
            }
            program.extend([end(ALLOW), end(REFUSE)]);
            program
        }
        Rule::KillWithout(index, bits) => vec![
            instruction(LOAD, 0, 0, argument(*index)),
            instruction(HAS_BITS, 1, 0, *bits),
            end(KILL),
            end(REFUSE),
        ],
        Rule::AllowWith(index, bits) => vec![
            instruction(LOAD, 0, 0, argument(*index)),
            instruction(HAS_BITS, 1, 0, *bits),
            end(KILL),
            end(ALLOW),
        ],
        Rule::Missing => vec![end(MISSING)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: u32 = 7;

    /// The result of a program in the kernel, and in how many steps.
    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        let mut data = [number.to_le_bytes(), arch.to_le_bytes(), [0; 4], [0; 4]].concat();
        data.extend(arguments.into_iter().flat_map(u64::to_le_bytes));
        let load = |at: u32| u32::from_le_bytes(data[at as usize..at as usize + 4].try_into().unwrap());
        let (mut at, mut value, mut steps) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            steps += 1;
            let jump = |holds| usize::from(if holds { jt } else { jf });
            at += 1 + match code {
                LOAD => {
                    value = load(k);
                    0
                }
                IS => jump(value == k),
                IS_AT_LEAST => jump(value >= k),
                HAS_BITS => jump(value & k != 0),
                END => return (k, steps),
                other => panic!("{other:#x}"),
            };
        }
    }

    /// The result that the rule itself says.
    fn expected(rules: &Rules, number: u32, arguments: [u64; 6]) -> u32 {
        let low = |index: &u8| arguments[usize::from(*index)] as u32;
        let allow_if = |holds| if holds { ALLOW } else { REFUSE };
        match rules.get(&number).unwrap_or(&Rule::Refuse) {
            Rule::Allow => ALLOW,
            Rule::Refuse => REFUSE,
            Rule::Kill => KILL,
            Rule::OneOf(index, values) => allow_if(values.contains(&low(index))),
            Rule::Without(index, bits) => allow_if(low(index) & bits == 0),
            Rule::Exactly(wanted) => {
                allow_if(wanted.iter().all(|(index, value)| arguments[usize::from(*index)] == *value))
            }
            Rule::KillWithout(index, bits) => {
                if low(index) & bits == 0 {
                    KILL
                } else {
                    REFUSE
                }
            }
            Rule::AllowWith(index, bits) => {
                if low(index) & bits == 0 {
                    KILL
                } else {
                    ALLOW
                }
            }
            Rule::Missing => MISSING,
        }
    }

    fn rules() -> Rules {
        let special = [
            (3, Rule::Kill),
            (4, Rule::OneOf(1, vec![5, 9, 0x8000_0001])),
            (200, Rule::OneOf(5, vec![])),
            (201, Rule::Without(2, 4)),
            (300, Rule::Exactly(vec![(4, 0)])),
            (302, Rule::Exactly(vec![(3, u64::MAX), (5, u64::MAX)])),
            (303, Rule::Exactly(vec![(0, (1 << 32) | 5)])),
            (304, Rule::Exactly(vec![])),
            (301, Rule::KillWithout(0, 0x10000)),
            (305, Rule::AllowWith(1, 0x10000)),
            (306, Rule::Missing),
            (u32::MAX, Rule::Kill),
        ];
        (0..3).chain(10..20).chain([50, 52, 999]).map(|number| (number, Rule::Allow)).chain(special).collect()
    }

    #[test]
    fn a_program_does_what_its_rules_say() {
        let rules = rules();
        let program = assemble(MACHINE, &rules).unwrap();
        let values = [0, 4, 5, 9, 0x10000, 0x8000_0001, 1 << 32, (1 << 32) | 5, u64::MAX];
        for number in (0..1100).chain([0x4000_0000, 0x4000_0003, u32::MAX - 1, u32::MAX]) {
            for value in values {
                let found = run(&program, MACHINE, number, [value; 6]).0;
                assert_eq!(found, expected(&rules, number, [value; 6]), "{number} {value:#x}");
            }
        }
        // All arguments must be right, not just one.
        for arguments in [[u64::MAX, 0, 0, u64::MAX, 0, 0], [0, 0, 0, 0, 0, u64::MAX]] {
            assert_eq!(run(&program, MACHINE, 302, arguments).0, REFUSE);
        }
        assert_eq!(run(&program, MACHINE + 1, 0, [0; 6]).0, KILL, "another machine's calls");
    }

    #[test]
    fn no_number_takes_many_steps() {
        let program = assemble(MACHINE, &rules()).unwrap();
        let most = (0..1100).map(|number| run(&program, MACHINE, number, [7; 6]).1).max();
        assert!(most.unwrap() <= 13, "{most:?}");
    }

    #[test]
    fn without_rules_everything_is_refused() {
        let program = assemble(MACHINE, &Rules::new()).unwrap();
        assert_eq!(run(&program, MACHINE, 0, [0; 6]).0, REFUSE);
    }
}
