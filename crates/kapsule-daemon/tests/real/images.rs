//! Images of servers: a real simplestreams server, fetched from by a real Incus.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use testbed::machine::ALICE;
use testbed::{IncusOptions, Machine, Process, needs, or_skip, tools};
use zbus::Variant;

use super::image_server::{Answer, INDEX, ImageServer, Product, write_below};
use super::inside::run;
use super::rig::{NO_RULES_AT_ALL, Person, Rig, plain};
use super::tiny;

#[tokio::test(flavor = "multi_thread")]
async fn images_come_from_servers_and_what_fails_is_said() {
    needs!(tools::OPENSSL);
    let machine = or_skip!(Machine::start());
    let server = ImageServer::start(&machine);
    let broken = ImageServer::start(&machine);
    // Nobody listens there any more.
    let gone = machine.listen().local_addr().expect("it listens");
    let certified = Certified::of(&machine);
    let servers = format!(
        "here = \"{}\"\nbroken = \"{}/\"\ngone = \"http://{gone}\"\nstrange = \"{url}\"\n\
         known = {{ url = \"{url}\", certificate = \"{}\" }}",
        server.url(),
        broken.url(),
        certified.certificate,
        url = certified.url,
    );
    let options = IncusOptions {
        images: vec![],
        ..IncusOptions::default()
    };
    let rig = or_skip!(Rig::start_with_servers(
        &machine,
        NO_RULES_AT_ALL,
        &options,
        &servers
    ));
    let files = or_skip!(tiny::image(&machine, "first", ""));
    let scene = Scene {
        alice: rig.person(&ALICE).await,
        first: Product::new(&machine, "first", "20260101", &files),
        rig,
        server,
    };

    scene
        .an_image_is_fetched_once_and_is_here_from_then_on()
        .await;
    scene.what_an_image_requires_and_wishes_is_heeded().await;
    scene
        .a_server_that_fails_is_named_and_leaves_nothing(&broken)
        .await;
    scene
        .a_file_that_is_not_what_the_list_says_is_refused()
        .await;
    scene.a_newer_one_is_fetched_by_refreshing().await;
    scene.a_certificate_of_ones_own_is_enough(certified).await;
}

struct Scene<'m> {
    rig: Rig<'m>,
    alice: Person,
    server: ImageServer,
    first: Product,
}

impl Scene<'_> {
    async fn an_image_is_fetched_once_and_is_here_from_then_on(&self) {
        self.server
            .publish(&[self.first.clone().requires(&[("nesting", "true")])]);
        self.made("one", "here:first").await;
        assert_eq!(self.inside("one").await, "first\n");
        let images = self.images().await;
        let [image] = images.as_array().map_or(&[][..], Vec::as_slice) else {
            panic!("one image: {images}");
        };
        assert_eq!(image["fingerprint"], self.first.fingerprint());
        assert_eq!(image["name_from_server"], "here:first");
        assert_eq!(image["server"], self.server.url());
        assert_eq!(image["requirements"]["nesting"], "true");
        // Not from the server again, whatever has become of that.
        self.server
            .set(&self.first.root_path(), Answer::Status(500));
        self.made("two", "here:first").await;
    }

    async fn what_an_image_requires_and_wishes_is_heeded(&self) {
        let files = or_panic(tiny::image(self.rig.machine, "wants", ""));
        let wants = Product::new(self.rig.machine, "wants", "20260101", &files)
            .requires(&[("kapsule.without", "home"), ("moon", "full")]);
        let files = or_panic(tiny::image(self.rig.machine, "rooted", ""));
        let rooted = Product::new(self.rig.machine, "rooted", "20260101", &files)
            .requires(&[("privileged", "true")]);
        self.server.publish(&[self.first.clone(), wants, rooted]);
        self.an_hour_passes();

        self.made("plain", "here:wants").await;
        assert_eq!(self.rig.config("plain", "user.kapsule.home"), "");
        let heard = self.alice.heard();
        assert!(
            heard.iter().any(|(_, body)| body.contains("moon=full")),
            "{heard:?}"
        );
        // What the person says counts more.
        let options = HashMap::from([("with", Variant::from(vec!["home"]))]);
        self.alice
            .done("CreateContainer", &("homely", "here:wants", options))
            .await
            .expect("it is made");
        assert_eq!(
            self.rig.config("homely", "user.kapsule.home"),
            "/home/alice"
        );

        let text = self.refused("root", "here:rooted").await;
        assert!(text.contains("--privileged"), "{text}");
    }

    async fn a_server_that_fails_is_named_and_leaves_nothing(&self, broken: &ImageServer) {
        let text = self.refused("nothing", "gone:first").await;
        assert!(
            text.contains("'gone:first'")
                && text.contains("connection refused")
                && text.contains("Images that are here"),
            "{text}"
        );
        let text = self.refused("nothing", "elsewhere:first").await;
        assert!(
            text.contains("there is no image server 'elsewhere'; there are broken, gone, here"),
            "{text}"
        );
        let text = self.refused("nothing", "here:nowhere").await;
        assert!(
            text.contains("'here:nowhere'") && text.contains("found"),
            "{text}"
        );

        for status in [404, 503] {
            broken.set(INDEX, Answer::Status(status));
            let text = self.refused("nothing", "broken:second").await;
            assert!(
                text.contains(&broken.url()) && text.contains(&status.to_string()),
                "{text}"
            );
        }
        // Once it is well, so is all.
        let files = or_panic(tiny::image(self.rig.machine, "second", ""));
        broken.publish(&[Product::new(self.rig.machine, "second", "20260101", &files)]);
        self.made("second", "broken:second").await;
        assert_eq!(self.inside("second").await, "second\n");
    }

    async fn a_file_that_is_not_what_the_list_says_is_refused(&self) {
        let files = or_panic(tiny::image(self.rig.machine, "third", ""));
        let third = Product::new(self.rig.machine, "third", "20260101", &files);
        self.server.publish(&[self.first.clone(), third.clone()]);
        self.an_hour_passes();
        let other: Arc<[u8]> = third.rootfs().iter().map(|byte| byte ^ 1).collect();
        for (answer, complaint) in [
            (Answer::Status(404), "resource not found"),
            (Answer::Whole(other), "Hash mismatch"),
            (Answer::Cut(third.rootfs()), "unexpected EOF"),
        ] {
            self.server.set(&third.root_path(), answer);
            let text = self.refused("nothing", "here:third").await;
            assert!(
                text.contains(complaint) && text.contains("'here:third'"),
                "{complaint}: {text}"
            );
            let kept = self
                .rig
                .incus
                .dir()
                .join("images")
                .join(third.fingerprint());
            assert!(!kept.exists(), "{complaint}: a half image is kept");
        }
        self.server
            .set(&third.root_path(), Answer::Whole(third.rootfs()));
        self.made("third", "here:third").await;
    }

    async fn a_newer_one_is_fetched_by_refreshing(&self) {
        self.made("older", "here:first").await;
        let files = or_panic(tiny::image(self.rig.machine, "newer", ""));
        let newer = Product::new(self.rig.machine, "first", "20260201", &files);
        self.server.publish(std::slice::from_ref(&newer));
        let refresh = async |image: &str| {
            let answer = self.alice.done("RefreshImages", &(image,)).await;
            answer.expect("it is refreshed");
            let heard = self.alice.heard();
            let said: Vec<String> = heard.into_iter().map(|(_, body)| body).collect();
            said.join("\n")
        };
        // Incus keeps a server's list for an hour.
        let said = refresh("here:first").await;
        assert!(said.contains("no newer 'first'"), "{said}");
        self.an_hour_passes();
        let said = refresh("here:first").await;
        assert!(said.contains("there is a newer 'first' now"), "{said}");
        let images = self.images().await;
        let ours: Vec<_> = images
            .as_array()
            .expect("an array")
            .iter()
            .filter(|image| image["name_from_server"] == "here:first")
            .map(|image| image["fingerprint"].clone())
            .collect();
        assert_eq!(ours, [newer.fingerprint()]);
        // Containers stay as they are.
        assert_eq!(self.inside("older").await, "first\n");
        self.made("young", "here:first").await;
        assert_eq!(self.inside("young").await, "newer\n");
        let said = refresh("").await;
        assert!(said.contains("no newer 'first'"), "{said}");
    }

    async fn a_certificate_of_ones_own_is_enough(&self, certified: Certified) {
        let files = or_panic(tiny::image(self.rig.machine, "safe", ""));
        let safe = Product::new(self.rig.machine, "safe", "20260101", &files);
        let url = certified.url.clone();
        let _serving = certified.serve(self.rig.machine, &[safe]);
        let text = self.refused("nothing", "strange:safe").await;
        assert!(
            text.contains("certificate") && text.contains(&url),
            "{text}"
        );
        self.made("safe", "known:safe").await;
        assert_eq!(self.inside("safe").await, "safe\n");
    }

    async fn made(&self, name: &str, image: &str) {
        let answer = self
            .alice
            .done("CreateContainer", &(name, image, plain()))
            .await;
        answer.unwrap_or_else(|error| panic!("{name} of {image}: {error:?}"));
    }

    /// Tries to make a container, which has to fail and leave nothing; why it did.
    async fn refused(&self, name: &str, image: &str) -> String {
        let images = self.images().await;
        let answer = self
            .alice
            .done("CreateContainer", &(name, image, plain()))
            .await;
        let (_, text) = answer.expect_err(image);
        assert!(!text.contains('\n'), "{text}");
        assert!(!self.rig.instances().contains(&name.to_owned()));
        let kept = format!("/run/kapsule-data/containers/{name}");
        assert!(!self.rig.machine.outside(kept).exists(), "{image}");
        let after = self.images().await;
        // One that was fetched whole is kept, whatever it then requires.
        let count = |images: &serde_json::Value| images.as_array().map(Vec::len);
        if !text.contains("--privileged") {
            assert_eq!(count(&after), count(&images), "{image}: {after}");
        }
        text
    }

    async fn images(&self) -> serde_json::Value {
        let text: String = self.alice.call("ListImages", &()).await.expect("listed");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Which image it is made of, by what is in it.
    async fn inside(&self, name: &str) -> String {
        run(&self.rig, &self.alice, name, false, "cat /etc/name")
            .await
            .well()
    }

    /// As far as Incus can tell: by the age of the lists of servers that it keeps.
    fn an_hour_passes(&self) {
        let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
        let cache = self.rig.incus.dir().join("cache");
        let mut lists = 0;
        for server in fs::read_dir(cache).expect("it is there").flatten() {
            if !server.path().is_dir() {
                continue;
            }
            for list in fs::read_dir(server.path()).expect("it is there").flatten() {
                let file = fs::File::options().append(true).open(list.path());
                file.and_then(|file| file.set_modified(long_ago))
                    .expect("root may");
                lists += 1;
            }
        }
        assert!(lists > 0, "Incus keeps its lists elsewhere");
    }
}

fn or_panic<T>(result: Result<T, testbed::skip::Trouble>) -> T {
    match result {
        Ok(it) => it,
        Err(_) => panic!("it was to be had before"),
    }
}

/// A server with a certificate that no authority vouches for.
struct Certified {
    url: String,
    port: u16,
    /// As the machine sees it.
    certificate: String,
}

impl Certified {
    fn of(machine: &Machine) -> Self {
        let mut command = machine.command("openssl");
        command.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=images".split(' '));
        command.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
        command.args(["-keyout", "/etc/images.key", "-out", "/etc/images.crt"]);
        machine.run(command).success();
        let port = machine.listen().local_addr().expect("it listens").port();
        Self {
            url: format!("https://127.0.0.1:{port}"),
            port,
            certificate: "/etc/images.crt".to_owned(),
        }
    }

    /// Until the process is ended.
    fn serve(self, machine: &Machine, products: &[Product]) -> Process {
        let dir = machine.dir().make_dir("run/served");
        write_below(&dir, products);
        // It serves the files of its working directory.
        let mut command = machine.command("sh");
        command.args([
            "-c",
            "cd /run/served && exec openssl s_server -WWW -accept \"127.0.0.1:$1\" -cert \"$2\" -key /etc/images.key",
            "server",
        ]);
        command.arg(self.port.to_string()).arg(&self.certificate);
        let started = Process::start_reading(command, "image-server", &machine.logs());
        let (process, mut said) = started.unwrap_or_else(|failure| panic!("{failure}"));
        said.expect_line("that it listens", |line| line.starts_with("ACCEPT"));
        process
    }
}
