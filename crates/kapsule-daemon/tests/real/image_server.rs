//! An image server (simplestreams) on the machine's loopback, that can be made to fail.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use testbed::container_image::ImageFiles;
use testbed::{Machine, run_to_end};

/// The list of lists, and the list.
pub const INDEX: &str = "streams/v1/index.json";
const LIST: &str = "streams/v1/images.json";

/// What the server says of one path.
#[derive(Clone)]
pub enum Answer {
    Whole(Arc<[u8]>),
    /// As long as it should be by its header, and ends before.
    Cut(Arc<[u8]>),
    Status(u16),
}

/// A server, until the machine goes.
pub struct ImageServer {
    address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
}

impl ImageServer {
    pub fn start(machine: &Machine) -> Self {
        let listener = machine.listen();
        let address = listener.local_addr().expect("it listens");
        let answers = Arc::default();
        let server = Self {
            address,
            answers: Arc::clone(&answers),
        };
        std::thread::spawn(move || serve(&listener, &answers));
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, path: &str, answer: Answer) {
        let mut answers = self.answers.lock().expect("not poisoned");
        answers.insert(path.to_owned(), answer);
    }

    /// Has these products from now on, and their files.
    pub fn publish(&self, products: &[Product]) {
        let (index, list) = lists(products);
        self.set(INDEX, Answer::Whole(index.into_bytes().into()));
        self.set(LIST, Answer::Whole(list.into_bytes().into()));
        for product in products {
            for (path, bytes) in product.files() {
                self.set(&path, Answer::Whole(bytes));
            }
        }
    }
}

fn serve(listener: &TcpListener, answers: &Mutex<HashMap<String, Answer>>) {
    while let Ok((stream, _)) = listener.accept() {
        // Who asks may go away in the middle.
        let _ = answer(stream, answers);
    }
}

fn answer(mut stream: TcpStream, answers: &Mutex<HashMap<String, Answer>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let found = answers
        .lock()
        .expect("not poisoned")
        .get(path.trim_start_matches('/'))
        .cloned();
    let head = |status: u16, length: usize| {
        format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
    };
    match found.unwrap_or(Answer::Status(404)) {
        Answer::Whole(bytes) => {
            stream.write_all(head(200, bytes.len()).as_bytes())?;
            stream.write_all(&bytes)
        }
        Answer::Cut(bytes) => {
            stream.write_all(head(200, bytes.len()).as_bytes())?;
            stream.write_all(&bytes[..bytes.len() / 2])
        }
        Answer::Status(status) => stream.write_all(head(status, 0).as_bytes()),
    }
}

/// An image of a server.
#[derive(Clone)]
pub struct Product {
    pub alias: &'static str,
    /// The day that it was made, as YYYYMMDD.
    pub day: &'static str,
    pub requirements: Vec<(&'static str, &'static str)>,
    metadata: Arc<[u8]>,
    rootfs: Arc<[u8]>,
    sums: [String; 3],
}

impl Product {
    /// The root file system of `files`, with a description of its own, so that it is another image than theirs.
    pub fn new(
        machine: &Machine,
        alias: &'static str,
        day: &'static str,
        files: &ImageFiles,
    ) -> Self {
        let dir = machine.dir().make_dir(format!("product-{alias}-{day}"));
        fs::write(
            dir.join("metadata.yaml"),
            format!(
                "architecture: {}\ncreation_date: 1\nproperties: {{description: {alias} {day}}}\n",
                std::env::consts::ARCH
            ),
        )
        .expect("it is ours");
        let script = "tar -cJf incus.tar.xz metadata.yaml && \
                      for file in incus.tar.xz \"$1\"; do sha256sum <\"$file\"; done && \
                      cat incus.tar.xz \"$1\" | sha256sum";
        let mut command = Command::new("sh");
        command
            .args(["-c", script, "product"])
            .arg(&files.rootfs)
            .current_dir(&dir);
        let said = run_to_end(command, Duration::from_secs(20))
            .expect("it runs")
            .success();
        let sums: Vec<String> = said
            .lines()
            .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
            .collect();
        Self {
            alias,
            day,
            requirements: Vec::new(),
            metadata: read(&dir.join("incus.tar.xz")),
            rootfs: read(&files.rootfs),
            sums: sums.try_into().expect("three sums"),
        }
    }

    pub fn requires(mut self, requirements: &[(&'static str, &'static str)]) -> Self {
        self.requirements = requirements.to_vec();
        self
    }

    pub fn fingerprint(&self) -> &str {
        &self.sums[2]
    }

    pub fn root_path(&self) -> String {
        format!("images/{}/{}/rootfs.squashfs", self.alias, self.day)
    }

    pub fn rootfs(&self) -> Arc<[u8]> {
        Arc::clone(&self.rootfs)
    }

    pub fn files(&self) -> [(String, Arc<[u8]>); 2] {
        let metadata = format!("images/{}/{}/incus.tar.xz", self.alias, self.day);
        [
            (metadata, Arc::clone(&self.metadata)),
            (self.root_path(), Arc::clone(&self.rootfs)),
        ]
    }

    fn described(&self) -> serde_json::Value {
        let [metadata, root] = self.files();
        let [metadata_sum, root_sum, both] = &self.sums;
        let requirements: HashMap<_, _> = self.requirements.iter().copied().collect();
        serde_json::json!({
            "aliases": self.alias,
            "arch": "amd64",
            "os": "Debian",
            "release": "trixie",
            "release_title": "trixie",
            "variant": "default",
            "requirements": requirements,
            "versions": { format!("{}_05:24", self.day): { "items": {
                "incus.tar.xz": {
                    "ftype": "incus.tar.xz", "path": metadata.0, "size": metadata.1.len(),
                    "sha256": metadata_sum, "combined_squashfs_sha256": both,
                },
                "root.squashfs": {
                    "ftype": "squashfs", "path": root.0, "size": root.1.len(), "sha256": root_sum,
                },
            } } },
        })
    }
}

/// The two lists of a server with these products.
pub fn lists(products: &[Product]) -> (String, String) {
    let name = |product: &Product| format!("debian:{}:amd64:default", product.alias);
    let names: Vec<String> = products.iter().map(name).collect();
    let described: serde_json::Map<_, _> = products
        .iter()
        .map(|product| (name(product), product.described()))
        .collect();
    let index = serde_json::json!({
        "format": "index:1.0",
        "index": { "images": {
            "datatype": "image-downloads", "format": "products:1.0", "path": LIST, "products": names,
        } },
    });
    let list = serde_json::json!({
        "content_id": "images", "datatype": "image-downloads", "format": "products:1.0",
        "products": described,
    });
    (index.to_string(), list.to_string())
}

/// Lays the products out below a directory, for a server of files.
pub fn write_below(dir: &Path, products: &[Product]) {
    let (index, list) = lists(products);
    let mut files = vec![
        (INDEX.to_owned(), index.into_bytes().into()),
        (LIST.to_owned(), list.into_bytes().into()),
    ];
    files.extend(products.iter().flat_map(Product::files));
    for (path, bytes) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("it is ours");
        fs::write(path, bytes).expect("there is room");
    }
}

fn read(path: &Path) -> Arc<[u8]> {
    fs::read(path).expect("it is there").into()
}
