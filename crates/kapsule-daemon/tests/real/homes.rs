//! The home, seen from both sides: what is written inside belongs to the person outside, and back.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use testbed::machine::{ALICE, BOB};
use testbed::{Machine, or_skip};

use super::inside::run;
use super::rig::{Rig, USUAL_RULES, plain};

#[tokio::test(flavor = "multi_thread")]
async fn files_in_the_home_belong_to_the_same_person_on_both_sides() {
    let machine = or_skip!(Machine::start());
    let rig = or_skip!(Rig::start(&machine, USUAL_RULES));
    // The uid that people have on their own machines, and another.
    for user in [ALICE, BOB] {
        let person = rig.person(&user).await;
        let name = format!("of-{}", user.name);
        person
            .done("CreateContainer", &(name.as_str(), "trixie", plain()))
            .await
            .expect("it is made");
        let home = machine.outside(user.home());

        let who = run(&rig, &person, &name, false, "id -u; id -un; id -g; cd; pwd")
            .await
            .well();
        let uid = user.uid;
        assert_eq!(
            who,
            format!("{uid}\n{}\n{uid}\n/home/{}\n", user.name, user.name)
        );

        // From inside …
        let line = "umask 027; mkdir -p ~/dir && echo inside >~/dir/file";
        run(&rig, &person, &name, false, line).await.well();
        for path in ["dir", "dir/file"] {
            let made = fs::metadata(home.join(path)).expect("it is there");
            assert_eq!((made.uid(), made.gid()), (uid, uid), "{path}");
        }
        assert_eq!(
            fs::metadata(home.join("dir/file"))
                .expect("it is there")
                .mode()
                & 0o777,
            0o640
        );
        assert_eq!(
            fs::read_to_string(home.join("dir/file")).expect("it is there"),
            "inside\n"
        );

        // … and from outside.
        let file = home.join("from-outside");
        fs::write(&file, "outside\n").expect("it is written");
        chown(&file, Some(uid), Some(uid)).expect("root may");
        let line = "stat -c %U:%G ~/from-outside; echo and inside >>~/from-outside; mv ~/from-outside ~/renamed";
        let owner = run(&rig, &person, &name, false, line).await.well();
        assert_eq!(owner, format!("{0}:{0}\n", user.name));
        let both = fs::read_to_string(home.join("renamed")).expect("it is there");
        assert_eq!(both, "outside\nand inside\n");

        // Root inside is nobody of importance outside, in the home too.
        run(
            &rig,
            &person,
            &name,
            true,
            &format!("touch /home/{}/roots", user.name),
        )
        .await
        .well();
        let roots = fs::metadata(home.join("roots")).expect("it is there").uid();
        assert!(roots >= 1_000_000, "{roots}");
        // What belongs to root outside is out of reach for root inside.
        let secret = home.join("secret");
        fs::write(&secret, "secret").expect("it is written");
        chown(&secret, Some(0), Some(0)).expect("root may");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&secret, mode).expect("root may");
        let read = run(
            &rig,
            &person,
            &name,
            true,
            &format!("cat /home/{}/secret", user.name),
        )
        .await;
        assert_ne!(read.status, 0, "{read:?}");
        assert_eq!(read.stdout, "");
    }
}
