//! A region's Redis port, as an application uses it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use redis::{Cmd, Connection, FromRedisValue, Pipeline, RedisResult};

use crate::limits::{ANSWER_WITHIN, PIPELINE};

/// A connection to one region.
pub struct Redis {
    connection: Connection,
    address: SocketAddr,
}

impl Redis {
    /// Connects, patiently.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn connect(address: SocketAddr) -> Result<Redis> {
        Redis::connect_within(address, ANSWER_WITHIN)
            .with_context(|| format!("connecting to Redis at {address}"))
    }

    /// Connects; neither that nor a reply may take longer than `patience`.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub fn connect_within(address: SocketAddr, patience: Duration) -> RedisResult<Redis> {
        let client = redis::Client::open(format!("redis://{address}/"))?;
        let connection = client.get_connection_with_timeout(patience)?;
        connection.set_read_timeout(Some(patience))?;
        connection.set_write_timeout(Some(patience))?;
        Ok(Redis { connection, address })
    }

    /// Runs a command given as its words.
    ///
    /// # Errors
    /// What the server or the connection says, with the command.
    pub fn call<T: FromRedisValue>(&mut self, words: &[&str]) -> Result<T> {
        let result = self.try_call(words);
        result.with_context(|| format!("{} at {}", words.join(" "), self.address))
    }

    /// As [`Redis::call`], with the client library's own error.
    ///
    /// # Errors
    /// What the server or the connection says.
    pub fn try_call<T: FromRedisValue>(&mut self, words: &[&str]) -> RedisResult<T> {
        let mut command = Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        command.query(&mut self.connection)
    }

    /// The values of many keys, in pipelines.
    ///
    /// # Errors
    /// What the server or the connection says.
    pub fn values(&mut self, keys: &[String]) -> Result<Vec<Option<String>>> {
        let commands = keys.iter().map(|key| vec!["GET".to_owned(), key.clone()]).collect();
        self.pipelined(commands)
    }

    /// Runs many commands in pipelines.
    ///
    /// # Errors
    /// What the server or the connection says.
    pub fn pipelined<T: FromRedisValue>(&mut self, commands: Vec<Vec<String>>) -> Result<Vec<T>> {
        let mut replies = Vec::with_capacity(commands.len());
        for chunk in commands.chunks(PIPELINE) {
            let mut pipeline = Pipeline::new();
            for words in chunk {
                let mut command = Cmd::new();
                words.iter().for_each(|word| {
                    command.arg(word);
                });
                pipeline.add_command(command);
            }
            let some: Vec<T> = pipeline
                .query(&mut self.connection)
                .with_context(|| format!("a pipeline at {}", self.address))?;
            replies.extend(some);
        }
        Ok(replies)
    }

    /// What stands for all the data of this region: equal digests, equal data.
    ///
    /// # Errors
    /// What the server or the connection says.
    pub fn digest(&mut self) -> Result<String> {
        self.call(&["MERIDIAN.DIGEST"])
    }

    /// All keys that match a pattern.
    ///
    /// # Errors
    /// What the server or the connection says.
    pub fn keys(&mut self, pattern: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let page = ["SCAN", &cursor, "MATCH", pattern, "COUNT", "1000"];
            let (next, some): (String, Vec<String>) = self.call(&page)?;
            keys.extend(some);
            if next == "0" {
                return Ok(keys);
            }
            cursor = next;
        }
    }
}
