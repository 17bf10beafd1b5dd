//! What the options of `dss-restore` mean; how its plan is shown, and how it asks.

use super::args::{Prepared, Request, refused};
use super::dss::{AU_BYTES, au_bytes};
use super::dss_wipe::{confirm, content_text};
use super::progress::Progress;
use super::{Failure, output};
use crate::command::Error;
use crate::command::dss_restore::{self, Options, Plan, by_hand};
use crate::command::restore::IncrementalMode;
use crate::command::words::pretty_size;
use crate::format::catalog::printable;
use serde::Serialize;
use std::path::{Path, PathBuf};

impl Request<'_> {
    /// `dss-restore`.
    pub(super) fn dss_restore(&self) -> Result<Prepared<Options>, Error> {
        let options = self.options;
        let prepared = self.restore()?;
        let restore = prepared.options;
        let Some(shared) = restore.shared.clone() else {
            let text = "dss-restore is for clusters on shared storage, which this instance is not";
            return Err(refused(text));
        };
        if let Some(word) = options.words().first() {
            let word = printable(word);
            return Err(refused(format!(
                "dss-restore takes options only, not \"{word}\""
            )));
        }
        if !shared.are_devices_named {
            return Err(refused(
                "name the volumes that are to be wiped, with --vg data=/dev/x or --dss-conf",
            ));
        }
        if restore.force {
            return Err(refused(
                "dss-restore wipes no cluster for a damaged backup: --force is of no use",
            ));
        }
        if restore.incremental_mode != IncrementalMode::None {
            return Err(refused(
                "dss-restore begins with empty volumes: --incremental-mode is of no use",
            ));
        }
        Ok(Prepared {
            options: Options {
                restore,
                shared,
                au_bytes: au_bytes(self)?,
                au_bytes_default: AU_BYTES,
                other_cluster: options.flag("other-cluster"),
                standbys: options
                    .texts("set-aside")
                    .into_iter()
                    .map(PathBuf::from)
                    .collect(),
            },
            progress: prepared.progress,
            log_level: prepared.log_level,
        })
    }
}

/// Runs `dss-restore`.
pub(super) fn run(
    request: &Request<'_>,
    options: &Options,
    progress: &Progress,
) -> Result<(), Failure> {
    let plan = dss_restore::prepare(options)?;
    let json = request.is_json();
    if json && !request.options.flag("dry-run") && !request.options.flag("yes") {
        let text = "with --format=json nothing is asked: confirm with --yes";
        return Err(refused(text).into());
    }
    if request.options.flag("dry-run") {
        return output(&plan_text(&plan, json));
    }
    if !json {
        output(&plan_text(&plan, false))?;
    }
    if !request.options.flag("yes") {
        confirm("everything on these volumes and in the data directory")?;
    }
    let plan = dss_restore::run(options, plan, progress)?;
    output(&rest_text(options, &plan, json))
}

/// A step of the plan: what is done, to what, and what is to know of it.
#[derive(Serialize)]
struct Step {
    step: &'static str,
    target: String,
    detail: String,
}

fn steps(plan: &Plan) -> Vec<Step> {
    let text = |path: &Path| printable(&path.display().to_string());
    let data = text(&plan.data_directory);
    let mut steps = Vec::new();
    let mut push = |step, target: String, detail: String| {
        steps.push(Step {
            step,
            target,
            detail,
        });
    };
    let backups = match plan.members {
        1 => "alone".to_owned(),
        members => format!("and what it grows on: {members} backups"),
    };
    let validate = match plan.is_validated {
        true => "validate",
        false => "not validated",
    };
    push(validate, plan.backup.to_string(), backups);
    for name in &plan.kept {
        push("save", name.clone(), format!("of {data}"));
    }
    for standby in &plan.standbys {
        let kept = text(&standby.kept);
        let detail = match standby.is_kept {
            false => format!("as {kept}"),
            true => format!("was done: {kept}"),
        };
        push("set aside", text(&standby.directory), detail);
    }
    for device in plan.groups.iter().flat_map(|group| &group.devices) {
        let content = content_text(&device.content);
        let detail = format!("{}, {content}", pretty_size(device.bytes));
        push("wipe", text(&device.device), detail);
    }
    for group in &plan.groups {
        let devices: Vec<String> = group.spec.devices.iter().map(|path| text(path)).collect();
        let detail = format!(
            "on {}: {} units of {}, the backup takes {}",
            devices.join(", "),
            group.units,
            pretty_size(group.au_bytes),
            group.needed_units
        );
        push("make", format!("+{}", printable(&group.spec.name)), detail);
    }
    let names = match plan.names {
        1 => "1 name".to_owned(),
        names => format!("{names} names"),
    };
    push("empty", data.clone(), names);
    push("restore", plan.backup.to_string(), format!("to {data}"));
    for name in &plan.kept {
        push("put back", name.clone(), format!("to {data}"));
    }
    steps
}

/// The plan as JSON.
#[derive(Serialize)]
struct JsonPlan {
    backup: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    interrupted: Option<&'static str>,
    steps: Vec<Step>,
}

fn plan_text(plan: &Plan, json: bool) -> String {
    let steps = steps(plan);
    if json {
        let plan = JsonPlan {
            backup: plan.backup.to_string(),
            interrupted: plan.interrupted,
            steps,
        };
        let text = serde_json::to_string_pretty(&plan).expect("texts are JSON");
        return format!("{text}\n");
    }
    let mut text = String::new();
    if let Some(stage) = plan.interrupted {
        text.push_str(&format!(
            "A run was interrupted while it was {stage}; all is done anew.\n"
        ));
    }
    let width = |of: fn(&Step) -> &str| {
        let lengths = steps.iter().map(|step| of(step).chars().count());
        lengths.max().unwrap_or(0)
    };
    let (first, second) = (width(|step| step.step), width(|step| &step.target));
    for Step {
        step,
        target,
        detail,
    } in &steps
    {
        text.push_str(&format!("{step:first$}  {target:second$}  {detail}\n"));
    }
    text
}

/// A step that remains, as JSON.
#[derive(Serialize)]
struct JsonByHand {
    what: String,
    commands: Vec<String>,
}

fn rest_text(options: &Options, plan: &Plan, json: bool) -> String {
    let rest = by_hand(&options.shared, plan);
    if json {
        let rest = rest.into_iter().map(|step| JsonByHand {
            what: step.what,
            commands: step.commands,
        });
        let rest: Vec<JsonByHand> = rest.collect();
        let text = serde_json::to_string_pretty(&rest).expect("texts are JSON");
        return format!("{text}\n");
    }
    let mut text = "The primary is restored. What remains to be done by hand:\n".to_owned();
    for (number, step) in (1..).zip(&rest) {
        text.push_str(&format!("{number}. {}\n", step.what));
        for command in &step.commands {
            text.push_str(&format!("     {command}\n"));
        }
    }
    text
}
