//! `kapsule autostart`

use std::process::ExitCode;

use crate::cli::Autostart;
use crate::command::print;
use crate::error::Result;
use crate::export::autostart;
use crate::manager::Manager;
use crate::text::plain;

/// Has containers started at login, or no more.
pub async fn autostart(bus: &str, options: &Autostart) -> Result<ExitCode> {
    if options.off {
        // They need not be there any more.
        for name in &options.names {
            let said = match autostart::switch_off(name)? {
                true => "is not started at login any more",
                false => "was not started at login",
            };
            print(&format!("{}: {said}\n", plain(name)));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let manager = Manager::connect(bus).await?;
    for name in &options.names {
        manager.container(name).await?;
        autostart::switch_on(bus, name)?;
        print(&format!("{}: is started at login\n", plain(name)));
    }
    Ok(ExitCode::SUCCESS)
}
