//! What remains to be done by hand after `dss-restore`, in the order of the documented procedure.

use super::Plan;
use crate::command::shared_storage::SharedOptions;
use crate::format::catalog::printable;
use std::path::Path;

/// A step: what it is for, and commands that can be copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ByHand {
    /// What it is for, in a sentence.
    pub what: String,
    /// Commands; words in capitals have to be replaced.
    pub commands: Vec<String>,
}

/// The steps.
#[must_use]
pub fn by_hand(shared: &SharedOptions, plan: &Plan) -> Vec<ByHand> {
    let data = quoted(&plan.data_directory);
    let kept: Vec<&Path> = plan.standbys.iter().map(|it| &*it.directory).collect();
    steps(shared, &data, &kept)
}

pub(super) fn steps(shared: &SharedOptions, data: &str, set_aside: &[&Path]) -> Vec<ByHand> {
    let home = shared.dss_home.as_deref();
    let socket = match home {
        Some(home) => quoted(format!("UDS:{}/.dss_unix_d_socket", home.display())),
        None => "\"UDS:$DSS_HOME/.dss_unix_d_socket\"".to_owned(),
    };
    let home = home.map_or_else(|| "$DSS_HOME".to_owned(), quoted);
    let (data_group, log_group) = (&shared.data_group, &shared.log_group);
    let step = |what: &str, commands: Vec<String>| ByHand {
        what: what.to_owned(),
        commands,
    };
    let initialise = |directory: &str| {
        format!(
            "gs_initdb --locale=LOCALE -D {directory} --nodename=NODENAME -C DIR -n \
             --vgname=\"+{data_group},+{log_group}\" --enable-dss --dms_url=\"DMS_URL\" -I NODE_ID \
             --socketpath={socket}"
        )
    };
    let mut steps = Vec::new();
    if set_aside.is_empty() {
        steps.push(step(
            "On each standby, set its data directory aside; paths are those of that machine.",
            vec![format!("mv {data} {data}.kept && mkdir -m 700 {data}")],
        ));
    }
    let directories = match set_aside {
        [] => vec![data.to_owned()],
        paths => paths.iter().map(quoted).collect(),
    };
    let mut commands = vec![format!("dssserver -D {home} &")];
    commands.extend(directories.iter().map(|directory| initialise(directory)));
    steps.push(step(
        "On each standby, start the server of storage and initialise the instance. How that was \
         done when the cluster was installed is in the logs of the installation: grep gs_initdb.",
        commands,
    ));
    let put_back = directories
        .iter()
        .map(|directory| format!("cp -a {directory}.kept/. {directory}/"));
    steps.push(step(
        "On each standby, put back what its data directory held.",
        put_back.collect(),
    ));
    steps.push(step(
        "On the primary, start the cluster.",
        vec!["cm_ctl start".to_owned()],
    ));
    steps
}

/// A path as one word of a shell.
fn quoted(path: impl AsRef<Path>) -> String {
    let text = printable(&path.as_ref().display().to_string());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:".contains(c);
    if text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}
