//! The hidden `nats-helper` mode of the binary.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Becomes nats-server, to be killed by the kernel when the thread that started us ends.
///
/// The arguments are those after `nats-helper`: the process id of the parent, the nats-server, its configuration. To
/// be called first thing in `main`, before any thread is started. What we inherit as standard input is the lock of
/// the directory; nats-server keeps it open without knowing.
pub fn run_nats_helper(args: impl IntoIterator<Item = OsString>) -> ! {
    let reason = become_server(&args.into_iter().collect::<Vec<_>>());
    eprintln!("nats-helper: {reason}");
    std::process::exit(1)
}

/// Returns only what went wrong.
fn become_server(args: &[OsString]) -> String {
    let [parent, server, config] = args else {
        return "this is for Forebay's own use: nats-helper PARENT NATS-SERVER CONFIG".to_owned();
    };
    // A kill, not a request to end: it cannot be ignored or take long, and what was acknowledged is with the
    // operating system already.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        return format!("cannot be tied to the life of the parent: {error}");
    }
    // The parent may have died before the signal was set.
    let actual = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if parent.to_str() != Some(actual.to_string().as_str()) {
        return "the parent is gone".to_owned();
    }
    let error = Command::new(server).arg("-c").arg(config).exec();
    format!("{} cannot be run: {error}", server.display())
}
