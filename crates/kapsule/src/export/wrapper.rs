//! Commands of the host that run a program inside.

/// The line by which a wrapper is known as ours.
const MARK: &str = "# Made by kapsule: ";

/// A script that runs `program` of `container`. Within that container, whose home may be ours, it runs the
/// program itself.
pub fn script(launcher: &[String], container: &str, program: &str) -> String {
    let launcher: Vec<String> = launcher.iter().map(|word| quote(word)).collect();
    let (launcher, program_quoted) = (launcher.join(" "), quote(program));
    let container = quote(container);
    format!(
        "#!/bin/sh\n\
         {MARK}{program} of the container {container}\n\
         if [ \"${{KAPSULE_CONTAINER-}}\" = {container} ]; then\n    \
             exec {program_quoted} \"$@\"\n\
         fi\n\
         exec {launcher} {container} -- {program_quoted} \"$@\"\n"
    )
}

/// Whether a file is a wrapper of ours.
pub fn is_ours(contents: &[u8]) -> bool {
    contents
        .split(|byte| *byte == b'\n')
        .nth(1)
        .is_some_and(|line| line.starts_with(MARK.as_bytes()))
}

/// A word as a shell takes it.
pub fn quote(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+=:,@".contains(&b);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapper_runs_the_program_inside_with_all_its_arguments() {
        let launcher = ["/usr/bin/kapsule", "run"].map(str::to_owned);
        let script = script(&launcher, "work", "/opt/it's/hugo");
        assert_eq!(
            script,
            r#"#!/bin/sh
# Made by kapsule: /opt/it's/hugo of the container work
if [ "${KAPSULE_CONTAINER-}" = work ]; then
    exec '/opt/it'\''s/hugo' "$@"
fi
exec /usr/bin/kapsule run work -- '/opt/it'\''s/hugo' "$@"
"#
        );
        assert!(is_ours(script.as_bytes()));
        assert!(!is_ours(b"#!/bin/sh\nexec hugo\n"));
    }
}
