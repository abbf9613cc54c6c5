//! HikariCP as a row: built by Maven, run by Java, with connections that do nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::measure::Spun;
use crate::error::{Error, Result, Tried};
use crate::row::House;

/// A built peer.
pub(super) struct Hikari {
    out: PathBuf,
}

impl Hikari {
    /// Builds it; the error says what is missing here.
    pub(super) fn prepare(house: &House) -> Result<Self> {
        let out = house.scratch()?.join("hikari");
        let pom = house.peers("hikari").join("pom.xml");
        output(
            Command::new("mvn")
                .args(["-q", "-B", "-f"])
                .arg(pom)
                .arg(format!("-Dout={}", out.display()))
                .arg("compile"),
        )?;
        Ok(Self { out })
    }

    /// One task claiming and giving back, after three seconds in which its code is compiled.
    pub(super) fn spin(&self, time: Duration) -> Result<Spun> {
        let path = |part: &str| Path::new(&self.out).join(part).display().to_string();
        let text = output(
            Command::new("java")
                .arg("-cp")
                .arg(format!("{}:{}", path("classes"), path("jars/*")))
                .arg("HikariPeer")
                .arg(time.as_millis().to_string()),
        )?;
        let mut figures = text.split_whitespace().map(str::parse::<f64>);
        match (figures.next(), figures.next()) {
            (Some(Ok(wall_ns)), Some(Ok(cpu_ns))) => Ok(Spun { wall_ns, cpu_ns }),
            _ => Err(Error::Server(format!("HikariCP's peer said {text:?}"))),
        }
    }
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().tried(format!("run {name}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let first = said
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    Err(Error::Unavailable(format!("{name} failed: {first}")))
}
