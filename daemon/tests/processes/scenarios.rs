//! What daemons go through.

mod agents;
mod calls;
mod clients;
mod policy;
mod startup;

/// Every scenario by name.
pub(crate) const ALL: &[(&str, fn())] = &[
    ("startup::in_the_background_until_told_to_end", startup::in_the_background_until_told_to_end),
    ("startup::without_an_agent_it_gives_up", startup::without_an_agent_it_gives_up),
    ("startup::nowait_returns_at_once", startup::nowait_returns_at_once),
    ("startup::an_agent_too_old_fails_the_start", startup::an_agent_too_old_fails_the_start),
    ("startup::its_sockets_come_with_the_hello", startup::its_sockets_come_with_the_hello),
    ("startup::quiet_means_that_the_parent_says_nothing", startup::quiet_means_that_the_parent_says_nothing),
    ("startup::a_signal_ends_it_cleanly", startup::a_signal_ends_it_cleanly),
    ("startup::a_successor_takes_over", startup::a_successor_takes_over),
    ("clients::a_command_reaches_the_agent", clients::a_command_reaches_the_agent),
    ("clients::hostile_ones_cost_only_themselves", clients::hostile_ones_cost_only_themselves),
    ("clients::more_than_there_are_descriptors", clients::more_than_there_are_descriptors),
    ("clients::a_slow_agent_makes_them_wait", clients::a_slow_agent_makes_them_wait),
    ("clients::three_hundred_at_once", clients::three_hundred_at_once),
    ("agents::a_restart_is_survived", agents::a_restart_is_survived),
    (
        "agents::hostile_ones_are_dropped_and_may_come_back",
        agents::hostile_ones_are_dropped_and_may_come_back,
    ),
    ("agents::a_flood_of_calls_is_answered", agents::a_flood_of_calls_is_answered),
    ("agents::one_that_does_not_read_is_dropped", agents::one_that_does_not_read_is_dropped),
    ("agents::of_every_version", agents::of_every_version),
    ("calls::between_vms", calls::between_vms),
    ("calls::many_between_vms", calls::many_between_vms),
    ("calls::to_one_that_does_not_accept", calls::to_one_that_does_not_accept),
    ("calls::refused_before_they_begin", calls::refused_before_they_begin),
    ("calls::to_dom0", calls::to_dom0),
    ("calls::to_dom0_and_nobody_comes", calls::to_dom0_and_nobody_comes),
    ("calls::one_vm_has_not_all_of_dom0", calls::one_vm_has_not_all_of_dom0),
    ("calls::to_dom0_without_service", calls::to_dom0_without_service),
    ("calls::to_a_socket_in_dom0", calls::to_a_socket_in_dom0),
    ("policy::edits_count_at_once", policy::edits_count_at_once),
    ("policy::a_program_decides", policy::a_program_decides),
    ("policy::a_program_that_misbehaves_refuses", policy::a_program_that_misbehaves_refuses),
    (
        "policy::a_program_that_cannot_be_told_of_a_requested_source_is_not_asked",
        policy::a_program_that_cannot_be_told_of_a_requested_source_is_not_asked,
    ),
    ("policy::a_program_of_old_makes_the_call_itself", policy::a_program_of_old_makes_the_call_itself),
    ("policy::a_policy_daemon_of_old_is_told_the_ids", policy::a_policy_daemon_of_old_is_told_the_ids),
    (
        "policy::a_program_need_not_be_told_of_a_source_that_is_the_caller_itself",
        policy::a_program_need_not_be_told_of_a_source_that_is_the_caller_itself,
    ),
    ("policy::a_slow_program_holds_nobody_up", policy::a_slow_program_holds_nobody_up),
    ("policy::the_policy_daemon_decides_first", policy::the_policy_daemon_decides_first),
];
