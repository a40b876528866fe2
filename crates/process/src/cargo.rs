use std::{ffi::OsStr, process::Command};

/// Hides the cargo that runs this program from a command: by the variables that cargo sets for the package, build scripts of dependencies would
/// conclude that something has changed, and a cargo in the command would rebuild them, as would the next cargo outside of it.
pub fn outside_cargo(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_cargo_run(name)) {
        command.env_remove(name);
    }
}

/// Whether only cargo sets this variable, for a program that it runs.
fn is_of_cargo_run(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || ["CARGO", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&&*name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_sees_nothing_of_the_cargo_that_runs_this_one() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "this test is run by cargo");
        let mut command = Command::new("true");
        outside_cargo(&mut command);
        let removed: Vec<_> =
            command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert!(removed.contains(&OsStr::new("CARGO_PKG_NAME")), "{removed:?}");
        // What the user sets stays.
        for kept in ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_BUILD_JOBS", "CARGO_ENCODED_RUSTFLAGS", "PATH"]
        {
            assert!(!is_of_cargo_run(OsStr::new(kept)), "{kept}");
        }
    }
}
