//! When a region may be called ready: it is not unhealthy, sees its peers and has what they have.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::Value;

use super::limits::ANSWER_WITHIN;
use crate::http;

/// What a region that is starting says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can be used.
    Ready,
    /// It cannot yet, for this reason.
    NotYet(String),
}

/// Asks the region at this admin address.
pub async fn ask(admin: SocketAddr) -> Readiness {
    let answers = async {
        let health = http::get(admin, "/healthz", ANSWER_WITHIN).await?;
        let status = http::get(admin, "/status", ANSWER_WITHIN).await?;
        Ok::<_, anyhow::Error>((health, status))
    };
    let answers: Result<_> = answers.await;
    match answers {
        Err(_) => Readiness::NotYet("it does not answer yet".to_owned()),
        Ok((health, status)) => judge(health.status, &health.body, &status.body),
    }
}

fn judge(code: u16, health: &str, status: &str) -> Readiness {
    if code != 200 {
        return Readiness::NotYet(reasons(health));
    }
    let Ok(status) = serde_json::from_str::<Value>(status) else {
        return Readiness::NotYet("its status is not understood".to_owned());
    };
    let peers = status["peers"].as_object().into_iter().flatten();
    let away: Vec<&str> = peers
        .filter(|(_, peer)| peer["connected"] != Value::Bool(true))
        .map(|(name, _)| name.as_str())
        .collect();
    if !away.is_empty() {
        return Readiness::NotYet(format!("not connected to {}", away.join(", ")));
    }
    if status["caught_up"] == Value::Bool(false) {
        return Readiness::NotYet("it is catching up".to_owned());
    }
    let regions = status["regions"].as_object().into_iter().flatten();
    let down: Vec<&str> = regions
        .filter(|(_, region)| {
            region["state"].as_str().is_some_and(|s| !s.eq_ignore_ascii_case("up"))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    match down.as_slice() {
        [] => Readiness::Ready,
        names => Readiness::NotYet(format!("it does not count as up: {}", names.join(", "))),
    }
}

/// What a health answer gives as reasons, else its beginning.
fn reasons(body: &str) -> String {
    let listed = serde_json::from_str::<Value>(body).ok().and_then(|health| {
        let reasons = health["reasons"].as_array()?;
        let words: Vec<&str> = reasons.iter().filter_map(Value::as_str).collect();
        (!words.is_empty()).then(|| words.join("; "))
    });
    listed.unwrap_or_else(|| {
        let line = body.lines().next().unwrap_or_default();
        if line.is_empty() {
            "not healthy yet".to_owned()
        } else {
            line.chars().take(120).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_ready_when_it_is_healthy_and_sees_everybody() {
        let check = |code, health: &str, status: &str, expected: Option<&str>| {
            let expected = expected.map_or(Readiness::Ready, |why| Readiness::NotYet(why.into()));
            assert_eq!(judge(code, health, status), expected);
        };
        let all = r#"{"peers":{"eu":{"connected":true}},"regions":{"us":{"state":"up"}}}"#;
        check(200, "{}", all, None);
        check(200, "healthy", "{}", None);
        check(503, r#"{"reasons":["no disk","no peers"]}"#, all, Some("no disk; no peers"));
        check(503, "unhealthy\nmore", all, Some("unhealthy"));
        check(503, "", all, Some("not healthy yet"));
        check(200, "", "<html>", Some("its status is not understood"));
        let alone = r#"{"peers":{"ap":{"connected":false},"eu":{"connected":true}}}"#;
        check(200, "", alone, Some("not connected to ap"));
        let down = r#"{"regions":{"eu":{"state":"Down"},"us":{"state":"Up"}}}"#;
        check(200, "", down, Some("it does not count as up: eu"));
        check(200, "", r#"{"caught_up":false}"#, Some("it is catching up"));
        check(200, "", r#"{"caught_up":null}"#, None);
    }
}
