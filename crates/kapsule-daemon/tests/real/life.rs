//! The life of a container, from its making to its end.

use testbed::machine::ALICE;
use testbed::{Machine, or_skip};

use super::rig::{Rig, USUAL_RULES, plain};

type Row = (String, String, String, String, String);

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_made_used_and_deleted() {
    let machine = or_skip!(Machine::start());
    let rig = or_skip!(Rig::start(&machine, USUAL_RULES));
    let alice = rig.person(&ALICE).await;

    // Made: it runs, is the caller's, and maps the caller alone.
    alice
        .done("CreateContainer", &("box", "trixie", plain()))
        .await
        .expect("it is made");
    let rows: Vec<Row> = alice.call("ListContainers", &()).await.expect("listed");
    assert_eq!(rows.len(), 1);
    let (name, status, image, _, mode) = &rows[0];
    assert_eq!(
        (
            name.as_str(),
            status.as_str(),
            image.as_str(),
            mode.as_str()
        ),
        ("box", "Running", "trixie", "DbusMux")
    );
    assert_eq!(rig.config("box", "user.kapsule.owner"), "1000");
    assert_eq!(rig.config("box", "user.kapsule.unfinished"), "");
    assert_eq!(
        rig.config("box", "raw.idmap"),
        "uid 1000 1000\ngid 1000 1000"
    );
}
