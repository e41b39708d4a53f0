//! Shells, commands, users and the session bus inside, against a real Incus: by what a client of the bus sees.

mod rig;
mod scenarios;
mod session_bus;
mod two_users;

use testbed::machine::{ALICE, BOB};
use testbed::polkit::{SystemBus, SystemBusOptions};
use testbed::{needs, or_skip, tools};

use rig::Rig;

/// Everybody may do everything: what is allowed to whom is the subject of other tests.
const RULES: &str = "polkit.addRule(function(action, subject) {
    if (action.id.indexOf('org.kde.kapsule.') == 0) { return polkit.Result.YES; }
});";

#[test]
fn a_container_is_a_second_home() {
    needs!(tools::DUNST, tools::XVFB, tools::DBUS_DAEMON);
    let machine = or_skip!(testbed::Machine::start());
    let bus = or_skip!(SystemBus::start(
        &machine,
        &SystemBusOptions {
            rules: RULES.to_owned(),
            actions: vec![rig::data("polkit-1/org.kde.kapsule.policy")],
            bus_policies: vec![rig::data("dbus-1/system.d/org.kde.kapsule.conf")],
        },
    ));
    let incus = or_skip!(testbed::Incus::start(
        &machine,
        &testbed::IncusOptions::default()
    ));
    let rig = Rig::start(&machine, &bus, &incus, "kapsule_daemon=debug");
    let alice = rig.client(&ALICE);
    rig.create(&alice, "box");

    scenarios::a_shell_is_a_login_of_the_same_user(&alice);
    scenarios::a_command_has_its_arguments_and_pipes(&alice);
    scenarios::a_program_is_in_the_container_and_nowhere_else(&alice);
    scenarios::signals_and_the_terminals_size_arrive(&alice);
    scenarios::root_needs_no_password(&alice);
    scenarios::what_is_written_in_the_home_is_the_users_on_both_sides(&rig, &alice, &ALICE, "box");
    scenarios::odd_calls_are_refused(&alice);
    scenarios::a_session_ends_with_who_started_it(&rig);
    scenarios::programs_that_have_ended_cost_the_daemon_nothing(&rig, &alice);
    session_bus::without_a_desktop_there_is_the_containers_bus(&rig, &alice);
    let mut desktop = session_bus::desktop(&rig);
    session_bus::the_desktop_is_found_inside(&rig, &alice, &mut desktop);
    session_bus::it_comes_back_when_it_was_killed(&rig, &alice);
    session_bus::a_link_inside_does_not_lead_it_to_the_hosts_bus(&rig, &alice);
    scenarios::a_container_that_was_started_anew_is_entered_anew(&rig, &alice);

    let bob = rig.client(&BOB);
    rig.create(&bob, "bobs");
    scenarios::what_is_written_in_the_home_is_the_users_on_both_sides(&rig, &bob, &BOB, "bobs");
    scenarios::another_user_has_no_part_in_a_session(&alice, &bob);
    two_users::two_users_are_in_one_container_at_once(&rig, &alice, &bob);
}
