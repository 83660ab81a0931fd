//! `vaultmount check`: finds what is wrong with a mount without a pod, step by step.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    by_hand::{self, ByHandArgs},
    style::{self, paint},
};
use crate::{
    app,
    check::{Check, Outcome, Step},
    config::Config,
    error::Error,
    mount::VersionKeySource,
    provider,
    request::{self, MountSpec, RawRequest},
    telemetry,
};

/// Flags of `vaultmount check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// What and for whom.
    #[command(flatten)]
    pub by_hand: ByHandArgs,

    /// Send also what creates something: database users, certificates, writes. Revoked at the end where it can be
    #[arg(long, help_heading = None)]
    pub create: bool,

    /// Format: text or json
    #[arg(help_heading = None, long, short, value_enum, value_name = "FORMAT", default_value_t, hide_possible_values = true)]
    pub output: Output,
}

/// How the steps are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line per step.
    #[default]
    Text,
    /// One JSON object, at the end.
    Json,
}

/// How long one step may take: as long as a driver's whole mount as a rule.
const PATIENCE: Duration = Duration::from_secs(30);

/// Checks; succeeds when a mount would.
#[must_use]
pub fn run(args: &CheckArgs) -> ExitCode {
    super::block_on(async {
        let mut report = Report::new(args.output);
        check(args, &mut report).await?;
        Ok(report.finish())
    })
    .unwrap_or_else(|error| {
        super::complain(&error);
        ExitCode::FAILURE
    })
}

async fn check(CheckArgs { by_hand: args, create, .. }: &CheckArgs, report: &mut Report) -> Result<(), String> {
    let (mut config, warnings) = Config::load(&args.as_serve(), std::env::vars_os()).map_err(|e| e.to_string())?;
    telemetry::init(config.log_level);
    let class = match by_hand::class(&args.file, args.class.as_deref()) {
        Ok(class) => class,
        Err(error) => {
            report.stop(error);
            return Ok(());
        }
    };
    // Who waits wants to know now.
    config.connection.vault.max_retries = config.connection.vault.max_retries.min(1);
    for warning in warnings {
        report.tell(Step::new("flags", Outcome::Odd(warning)));
    }
    let audience = by_hand::audience(&args.pod, &class);
    // What is wrong with the token is told where the token is looked at.
    let (token, refused) = match by_hand::token(&args.pod, &config, &class, &audience).await {
        Ok(token) => (token, None),
        Err(error) => (None, Some(error)),
    };
    let call = by_hand::call(&args.pod, args.permission, &class, &audience, token.as_ref());
    let parsed = request::parse(&RawRequest {
        attributes: &call.attributes,
        secrets: &call.secrets,
        target_path: &call.target_path,
        permission: &call.permission,
    });
    let spec = match parsed {
        Ok(spec) => spec,
        Err(error) => {
            report.stop(error);
            return Ok(());
        }
    };
    report.tell(Step::new("class", Outcome::Good(introduction(&spec, &audience))));
    for warning in &spec.warnings {
        report.tell(Step::new("class", Outcome::Odd(warning.clone())));
    }
    let mounter = app::mounter(&config, None, VersionKeySource::process());
    let check = Check {
        mounter: &mounter,
        spec: &spec,
        audience: &audience,
        create: *create,
        token_from: args.pod.token_file.as_ref().map_or("minted".to_owned(), |path| path.display().to_string()),
        no_token: refused,
        patience: PATIENCE,
    };
    let interrupted = async {
        // Without the signal, the default action ends the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    report.interrupted = !check.walk(|step| report.tell(step), provider::fits, interrupted).await;
    Ok(())
}

fn introduction(spec: &MountSpec, audience: &str) -> String {
    let name = if spec.class.is_empty() { "without a name".to_owned() } else { format!("{:?}", spec.class) };
    let (objects, requests) = (spec.objects.len(), spec.reads().len());
    let audience = spec.audience.as_deref().unwrap_or(audience);
    format!("{name}: role {:?}, audience {audience:?}, objects: {objects}, requests: {requests}", spec.role)
}

struct Report {
    output: Output,
    /// Each step, and how long it took.
    steps: Vec<(Step, Duration)>,
    since: Instant,
    interrupted: bool,
}

impl Report {
    fn new(output: Output) -> Self {
        Self { output, steps: Vec::new(), since: Instant::now(), interrupted: false }
    }

    fn tell(&mut self, step: Step) {
        let took = self.since.elapsed();
        self.since = Instant::now();
        if self.output == Output::Text {
            // Nobody reads it; the exit code remains.
            let _ = style::stdout().write_all(line(&step, took).as_bytes());
        }
        self.steps.push((step, took));
    }

    /// The class cannot be used, and so nothing was asked.
    fn stop(&mut self, error: Error) {
        self.tell(Step::new("class", Outcome::Failed(error)));
        self.tell(Step::new("the rest", Outcome::Skipped("not reached".to_owned())));
    }

    fn failures(&self) -> usize {
        self.steps.iter().filter(|(step, _)| matches!(step.outcome, Outcome::Failed(_))).count()
    }

    fn conclusion(&self, failures: usize) -> String {
        let skipped =
            self.steps.iter().filter(|(s, _)| s.object.is_some() && matches!(s.outcome, Outcome::Skipped(_))).count();
        match (failures, skipped) {
            _ if self.interrupted => "Interrupted.".to_owned(),
            (0, 0) => "A pod would get its files.".to_owned(),
            (0, _) => format!("Nothing is wrong with what was asked; objects that were not: {skipped} (--create)."),
            (1, _) => "1 problem; vaultmount explain ID tells more.".to_owned(),
            _ => format!("{failures} problems; vaultmount explain ID tells more."),
        }
    }

    fn finish(self) -> ExitCode {
        let failures = self.failures();
        let ok = failures == 0 && !self.interrupted;
        let text = match self.output {
            Output::Json => {
                let outcomes = Outcomes { ok, steps: self.steps.iter().map(Told::from).collect() };
                serde_json::to_string_pretty(&outcomes).unwrap_or_default()
            }
            Output::Text => format!("\n{}", self.conclusion(failures)),
        };
        // Nobody reads it; the exit code remains.
        let _ = writeln!(io::stdout(), "{text}");
        if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// How wide the words before a step's detail are.
const INDENT: usize = 20;

/// A step that takes as long as this is worth saying so.
const LONG: Duration = Duration::from_secs(1);

fn line(step: &Step, took: Duration) -> String {
    let subject = step.object.as_ref().map(|object| format!("{object:?}: ")).unwrap_or_default();
    let took = if took < LONG { String::new() } else { format!(" (after {:.1} s)", took.as_secs_f64()) };
    let (word, style, detail) = match &step.outcome {
        Outcome::Good(detail) => ("ok", style::OK, detail.as_str()),
        Outcome::Odd(detail) => ("warn", style::WARNING, detail.as_str()),
        Outcome::Skipped(detail) => ("skip", style::SKIPPED, detail.as_str()),
        Outcome::Failed(error) => ("FAIL", style::ERROR, error.what()),
    };
    let mut line = format!("{:4}  {:12}  {subject}{detail}", paint(style, word), step.name);
    // What lists several failures has id and mend of each in it.
    let alone = match &step.outcome {
        Outcome::Failed(error) if !error.is_listing() => Some(error),
        _ => None,
    };
    if let Some(error) = alone {
        let _ = write!(line, " [{}]", error.cause().id());
    }
    line += &took;
    let words = alone.into_iter().flat_map(|e| [("it said", e.words()), ("mend", e.next_step())]);
    for (label, words) in words {
        if let Some(words) = words {
            let _ = write!(line, "\n{:INDENT$}{}: {words}", "", paint(style::HEADING, label));
        }
    }
    line + "\n"
}

/// The whole walk in JSON.
#[derive(Serialize)]
struct Outcomes<'a> {
    ok: bool,
    steps: Vec<Told<'a>>,
}

/// A step in JSON. What is not there is left out.
#[derive(Serialize)]
struct Told<'a> {
    step: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    status: &'static str,
    detail: &'a str,
    milliseconds: u128,
    #[serde(flatten)]
    failure: Option<ToldFailure<'a>>,
}

#[derive(Serialize)]
struct ToldFailure<'a> {
    id: &'static str,
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<&'a str>,
}

impl<'a> From<&'a (Step, Duration)> for Told<'a> {
    fn from((step, took): &'a (Step, Duration)) -> Self {
        let (status, detail) = match &step.outcome {
            Outcome::Good(detail) => ("ok", detail.as_str()),
            Outcome::Odd(detail) => ("warning", detail.as_str()),
            Outcome::Skipped(detail) => ("skipped", detail.as_str()),
            Outcome::Failed(error) => ("failed", error.what()),
        };
        let failure = match &step.outcome {
            Outcome::Failed(error) => Some(ToldFailure {
                id: error.cause().id(),
                code: error.cause().code().to_string(),
                said: error.words(),
                mend: error.next_step(),
            }),
            _ => None,
        };
        Self {
            step: step.name,
            object: step.object.as_deref(),
            status,
            detail,
            milliseconds: took.as_millis(),
            failure,
        }
    }
}
