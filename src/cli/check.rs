//! `vaultmount check`: performs a mount without a pod, and reports each step.

mod json;
mod text;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use super::{
    driver_args::{self, DriverArgs},
    style,
};
use crate::{
    app::Components,
    check::{Check, Step, StepOutcome},
    config::Config,
    error::{Cause, Error},
    hmac_keys::HmacKeys,
    observe::Observers,
    provider,
    request::{self, Finding, MountSpec, RawRequest},
    telemetry,
};

/// Flags of `vaultmount check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// The class and the pod.
    #[command(flatten)]
    pub driver: DriverArgs,

    /// Also send requests that create credentials or write data; revoke them afterwards if possible
    #[arg(long, help_heading = None)]
    pub create: bool,

    /// Format: text or json
    #[arg(help_heading = None, long, short, value_enum, value_name = "FORMAT", default_value_t, hide_possible_values = true)]
    pub output: OutputFormat,
}

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// One line per step.
    #[default]
    Text,
    /// One JSON object, printed at the end.
    Json,
}

/// Timeout of one step, equal to the usual deadline of a whole mount.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the check, and succeeds if no step failed.
#[must_use]
pub fn run(args: &CheckArgs) -> ExitCode {
    let (config, warnings) = match super::load_oneshot_config(&args.driver.to_serve_args()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    // The steps replace the log, unless a log flag is set.
    let log = &args.driver.log;
    if log.log_level.is_some() || log.debug.is_some() {
        telemetry::init(config.log.clone());
    }
    let mut printer = StepPrinter::new(args.output);
    for warning in warnings {
        printer.report_step(Step::new("flags", StepOutcome::Warn(warning)));
    }
    let result = super::block_on(async {
        run_check(args, config, &mut printer).await;
        Ok(())
    });
    match result {
        Ok(()) => printer.finish(),
        Err(error) => super::exit_code(Err(error)),
    }
}

async fn run_check(CheckArgs { driver: args, create, .. }: &CheckArgs, mut config: Config, printer: &mut StepPrinter) {
    let class = match driver_args::read_class(&args.file, args.class.as_deref()) {
        Ok(class) => class,
        Err(error) => return printer.abort(error),
    };
    // A person is waiting: retry at most once.
    config.connection.vault.max_retries = config.connection.vault.max_retries.min(1);
    let audience = driver_args::token_audience(&args.pod, &class);
    // A token error is reported in the token step.
    let (token, token_error) = match driver_args::obtain_token(&args.pod, &config, &class, &audience).await {
        Ok(token) => (token, None),
        Err(error) => (None, Some(error)),
    };
    let call = driver_args::build_call(&args.pod, args.permission, &class, &audience, token.as_ref());
    let parsed = request::parse(&RawRequest {
        attributes: &call.attributes,
        secrets: &call.secrets,
        target_path: &call.target_path,
        permission: &call.permission,
    });
    let spec = match parsed {
        Ok(spec) => spec,
        Err(error) => return printer.report_class_errors(error, &class.parameters),
    };
    printer.report_step(Step::new("class", StepOutcome::Pass(class_summary(&spec, &audience))));
    for warning in &spec.class.warnings {
        printer.report_step(Step::new("class", StepOutcome::Warn(warning.clone())));
    }
    let parts = Components::new(&config, None, HmacKeys::process_local(), Observers::default(), None, false);
    let check = Check {
        mount_service: parts.mounts(),
        spec: &spec,
        default_audience: args
            .pod
            .audience
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or(driver_args::provider_name(&class)),
        allows_mutating: *create,
        token_source: args.pod.token_file.as_ref().map_or("minted".to_owned(), |path| path.display().to_string()),
        missing_token_error: token_error,
        step_timeout: STEP_TIMEOUT,
    };
    let interruption = async {
        super::shutdown_signal().await;
        super::print_error("interrupted: waiting for requests in flight, then cleaning up");
        // A second signal exits immediately, even if resources are left behind.
        tokio::spawn(async {
            super::shutdown_signal().await;
            std::process::exit(1);
        });
    };
    printer.is_interrupted = !check.run(|step| printer.report_step(step), provider::check_size, interruption).await;
}

fn class_summary(spec: &MountSpec, audience: &str) -> String {
    let name = if spec.class_name.is_empty() { "without a name".to_owned() } else { format!("{:?}", spec.class_name) };
    let (objects, requests) = (spec.class.objects.len(), spec.class.objects_by_request().len());
    let audience = spec.class.audience.as_deref().unwrap_or(audience);
    format!("{name}: role {:?}, audience {audience:?}, objects: {objects}, requests: {requests}", spec.class.role)
}

struct StepPrinter {
    output: OutputFormat,
    /// Each step with its duration.
    steps: Vec<(Step, Duration)>,
    step_started_at: Instant,
    is_interrupted: bool,
}

impl StepPrinter {
    fn new(output: OutputFormat) -> Self {
        Self { output, steps: Vec::new(), step_started_at: Instant::now(), is_interrupted: false }
    }

    fn report_step(&mut self, step: Step) {
        let duration = if step.is_timed_with_next { Duration::ZERO } else { self.step_started_at.elapsed() };
        if !step.is_timed_with_next {
            self.step_started_at = Instant::now();
        }
        if self.output == OutputFormat::Text {
            // If standard output is closed, the exit code still reports the result.
            let _ = style::stdout().write_all(text::render_step(&step, duration).as_bytes());
        }
        self.steps.push((step, duration));
    }

    /// Reports each error of a class that a mount would reject.
    fn report_class_errors(&mut self, error: Error, parameters: &BTreeMap<String, String>) {
        let review = request::review_class(parameters);
        let to_error = |finding: &Finding| Error::new(finding.cause, finding.message_with_position());
        let (warnings, errors): (Vec<_>, Vec<_>) =
            review.errors.iter().partition(|finding| finding.cause == Cause::UnknownName);
        let Some((last, others)) = errors.split_last() else { return self.abort(error) };
        for finding in warnings {
            self.report_step(Step::new("class", StepOutcome::Warn(to_error(finding).to_string())));
        }
        for finding in others {
            self.report_step(Step::fail("class", to_error(finding)));
        }
        self.abort(to_error(last));
    }

    /// Reports a class that cannot be used, and skips all other steps.
    fn abort(&mut self, error: Error) {
        self.report_step(Step::fail("class", error));
        self.report_step(Step::new("the rest", StepOutcome::Skip("not reached".to_owned())));
    }

    fn failure_count(&self) -> usize {
        self.steps.iter().filter(|(step, _)| matches!(step.outcome, StepOutcome::Fail(_))).count()
    }

    fn conclusion(&self, failures: usize) -> String {
        let skipped =
            self.steps.iter().filter(|(s, _)| s.object.is_some() && matches!(s.outcome, StepOutcome::Skip(_))).count();
        match (failures, skipped) {
            _ if self.is_interrupted => "Interrupted.".to_owned(),
            (0, 0) => "A pod would get its files.".to_owned(),
            (0, _) => format!("No problem found; objects not tested: {skipped} (--create tests them)."),
            (1, _) => "1 problem. For details, run vaultmount explain ID.".to_owned(),
            _ => format!("{failures} problems. For details, run vaultmount explain ID."),
        }
    }

    fn finish(self) -> ExitCode {
        let failures = self.failure_count();
        let ok = failures == 0 && !self.is_interrupted;
        let text = match self.output {
            OutputFormat::Json => json::render(ok, &self.steps),
            OutputFormat::Text => format!("\n{}", self.conclusion(failures)),
        };
        // If standard output is closed, the exit code still reports the result.
        let _ = writeln!(io::stdout(), "{text}");
        if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
