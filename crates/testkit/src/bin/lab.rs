//! What `scripts/lab` does with the [lab](shunt_testkit::lab): it has the usage.
#![forbid(unsafe_code)]

use std::{
    env,
    io::{self, IsTerminal, Write},
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process::ExitCode,
};

use shunt_testkit::lab::{
    Configuration, Device, Director, Lab, Style,
    experiments::{EXPERIMENTS, Experiment},
    note, remove_users_lab, styled, use_colors,
};

const THINGS_TO_DO: &str = "  sudo ip netns exec shunt-client curl http://192.168.1.100/
  sudo ip netns exec shunt-client wrk -c 50 -d 5s http://192.168.1.100/
  sudo ip netns exec shunt-rs1 tcpdump -ni server0
  sudo scripts/lab shell client
  sudo scripts/lab status
and to remove it all:
  sudo scripts/lab down";

struct Options {
    device: Device,
    workers: usize,
    is_kernel: bool,
    only: Vec<Experiment>,
    is_kept: bool,
    has_huge_pages: bool,
    binary: Option<PathBuf>,
}

fn main() -> ExitCode {
    use_colors(io::stdout().is_terminal() && no_color_is_unset());
    // What goes wrong is for users to read, not where in this program it was noticed.
    panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("an error without a text");
        // That nobody reads it is no reason to end without removing the lab.
        let text = text.replace('\n', "\n      ");
        let _ = writeln!(io::stdout(), "{}  {text}", styled(Style::Red, "  FAIL"));
    }));
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some((command, rest)) = arguments.split_first() else { return refuse("what to do?") };
    let options = match parse(rest) {
        Ok(options) => options,
        Err(error) => return refuse(&error),
    };
    let done = panic::catch_unwind(|| match command.as_str() {
        "run" => run(&options),
        "up" => {
            say("building the lab");
            let file = leave(&options, None);
            println!(
                "The lab is up. To start a director in it:
  sudo ip netns exec shunt-director {} run --config {file}
Then try:\n{THINGS_TO_DO}",
                options.binary().display()
            );
            ExitCode::SUCCESS
        }
        "down" => {
            remove_users_lab();
            say("the lab is gone");
            ExitCode::SUCCESS
        }
        other => refuse(&format!("there is no {other}")),
    });
    done.unwrap_or(ExitCode::FAILURE)
}

fn no_color_is_unset() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn refuse(error: &str) -> ExitCode {
    eprintln!("{} {error}; see scripts/lab --help", styled(Style::Red, "error:"));
    ExitCode::FAILURE
}

fn say(text: &str) {
    println!("{} {text}", styled(Style::Bold, "==>"));
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        device: Device::AfPacket,
        workers: 1,
        is_kernel: false,
        only: EXPERIMENTS.to_vec(),
        is_kept: false,
        has_huge_pages: true,
        binary: env::var_os("SHUNT_BINARY").map(PathBuf::from),
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
        match argument.as_str() {
            "--device" => {
                let name = value()?;
                options.device = Device::ALL
                    .into_iter()
                    .find(|device| device.name() == name)
                    .ok_or(format!("--device {name}: af_packet, af_xdp or tap"))?;
            }
            "--workers" => {
                let number = value()?;
                options.workers = match number.as_str() {
                    "1" => 1,
                    "2" => 2,
                    _ => return Err(format!("--workers {number}: 1 or 2")),
                };
            }
            "--director" => {
                let name = value()?;
                options.is_kernel = match name.as_str() {
                    "shunt" => false,
                    "kernel" => true,
                    _ => return Err(format!("--director {name}: shunt or kernel")),
                };
            }
            "--only" => options.only = value()?.split(',').map(chosen).collect::<Result<_, _>>()?,
            "--binary" => options.binary = Some(PathBuf::from(value()?)),
            "--keep" => options.is_kept = true,
            "--no-huge" => options.has_huge_pages = false,
            _ => return Err(format!("unknown option {argument}")),
        }
    }
    Ok(options)
}

/// An experiment by its number or its name.
fn chosen(text: &str) -> Result<Experiment, String> {
    let by_number = text.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let found = match by_number {
        Some(at) => EXPERIMENTS.get(at).copied(),
        None => Experiment::named(text),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = EXPERIMENTS.iter().map(|each| each.name).collect();
        let names = names.join(", ");
        format!("--only {text}: experiments are 1 to {}, or {names}", EXPERIMENTS.len())
    })
}

impl Options {
    fn director(&self) -> Director {
        match self.is_kernel {
            true => Director::Kernel,
            false => Director::Shunt(self.device, self.workers),
        }
    }

    fn binary(&self) -> PathBuf {
        self.binary.clone().expect("say --binary FILE, or set SHUNT_BINARY")
    }

    fn builder(&self) -> shunt_testkit::lab::Builder {
        Lab::builder(self.director(), self.binary()).huge_pages(self.has_huge_pages)
    }
}

/// Makes experiments, one after the other in one lab, and says how they went.
fn run(options: &Options) -> ExitCode {
    println!();
    say("building the lab");
    let mut lab = options.builder().for_users().build();
    let has_huge_pages = lab.has_huge_pages();
    let mut results = Vec::new();
    for experiment in &options.only {
        let at = EXPERIMENTS.iter().position(|each| each.name == experiment.name);
        let number = (at.expect("one of them") + 1).to_string();
        println!("\n{}", styled(Style::Bold, &format!("{number}  {}", experiment.title)));
        let result = match experiment.obstacle(lab.director()) {
            Some(why) => {
                note(why);
                Verdict::Skip
            }
            None => judge(|| experiment.run(&mut lab)),
        };
        println!("  {}", result.word());
        results.push((number, experiment.title, result));
        if result == Verdict::Fail {
            lab.show_state();
            if !lab.director_runs() {
                break;
            }
        }
    }
    // Those before the last one have been judged, too: by the experiments that had others started.
    let title = "the director stops cleanly, every mbuf back in its pool";
    println!("\n{}", styled(Style::Bold, title));
    let result = judge(|| drop(lab.stop_director()));
    println!("  {}", result.word());
    results.push(("-".to_owned(), title, result));
    drop(lab);

    println!("\n{}", styled(Style::Bold, &verdict_on(options, has_huge_pages)));
    for (number, title, result) in &results {
        println!("{number:>3}  {}  {title}", result.word());
    }
    let count = |wanted| results.iter().filter(|(.., result)| *result == wanted).count();
    let failed = count(Verdict::Fail);
    println!("\n{} passed, {failed} failed", count(Verdict::Pass));
    if options.is_kept {
        println!();
        say("building the lab again, to be left");
        leave(options, Some(&Configuration::full()));
        println!("The lab stays up, and the director runs. Try:\n{THINGS_TO_DO}");
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn verdict_on(options: &Options, has_huge_pages: bool) -> String {
    let (device, workers) = (options.device.name(), options.workers);
    let memory = if has_huge_pages { "huge pages" } else { "no huge pages" };
    match options.is_kernel {
        true => "Verdict: the kernel".to_owned(),
        false => format!("Verdict: Shunt on net_{device}, workers: {workers}, {memory}"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    Fail,
    Skip,
}

impl Verdict {
    fn word(self) -> String {
        match self {
            Verdict::Pass => styled(Style::Green, "PASS"),
            Verdict::Fail => styled(Style::Red, "FAIL"),
            Verdict::Skip => styled(Style::Dim, "SKIP"),
        }
    }
}

fn judge(experiment: impl FnOnce()) -> Verdict {
    match panic::catch_unwind(AssertUnwindSafe(experiment)) {
        Ok(()) => Verdict::Pass,
        Err(_) => Verdict::Fail,
    }
}

/// Builds the lab and leaves it; returns the service file for a director in it.
fn leave(options: &Options, configuration: Option<&Configuration>) -> String {
    let mut lab = options.builder().for_users().outlives_process().build();
    let file = match configuration {
        Some(configuration) => {
            lab.start_director(configuration);
            String::new()
        }
        None => lab.write_service_file(&Configuration::full()).display().to_string(),
    };
    lab.leave();
    file
}
