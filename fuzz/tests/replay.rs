//! Replays every input under `corpus/`: those to begin with, and those that once broke something.

use std::path::Path;

#[test]
fn every_input_of_the_corpus_keeps_the_promises() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in kapsule_fuzz::TARGETS {
        let directory = corpus.join(name);
        let inputs: Vec<_> = std::fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(!inputs.is_empty(), "{name} has no inputs");
        for input in inputs {
            // Shown by the test's output if the target panics.
            println!("{}", input.display());
            let bytes = std::fs::read(&input).unwrap();
            target(&bytes);
            // And its neighbours, which costs little and finds what a change of the code broke.
            for at in 0..bytes.len().min(200) {
                let mut near = bytes.clone();
                near[at] ^= 1 << (at % 8);
                target(&near);
                target(&bytes[..at]);
            }
        }
    }
}

#[test]
fn every_directory_of_the_corpus_has_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(corpus).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            kapsule_fuzz::TARGETS
                .iter()
                .any(|(target, _)| name == **target),
            "{name:?}"
        );
    }
}
