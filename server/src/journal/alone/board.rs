//! The board of a store that has one process: there is nobody to tell, and nothing is ever on it.

use async_trait::async_trait;

use crate::{
    journal::{Board, JournalError, Sheet, Told, Wish},
    purchase::{AccountName, PurchaseId},
};

/// The board of a store that has one process.
#[derive(Debug, Clone, Copy, Default)]
pub struct AloneBoard;

#[async_trait]
impl Board for AloneBoard {
    fn is_shared(&self) -> bool {
        false
    }

    async fn mark(&self) -> Result<u64, JournalError> {
        Ok(0)
    }

    async fn wish(&self, _mark: u64, wishes: &[Wish]) -> Result<Option<Vec<u64>>, JournalError> {
        Ok(Some(vec![0; wishes.len()]))
    }

    async fn wanted(
        &self,
        _after: &[(AccountName, u64)],
        _limit: usize,
    ) -> Result<Sheet, JournalError> {
        Ok(Sheet::default())
    }

    async fn tell(&self, _told: &[Told]) -> Result<(), JournalError> {
        Ok(())
    }

    async fn told(&self, _purchases: &[PurchaseId]) -> Result<Vec<Told>, JournalError> {
        Ok(Vec::new())
    }

    async fn show(&self, _snapshots: &[(AccountName, String)]) -> Result<(), JournalError> {
        Ok(())
    }

    async fn shown(
        &self,
        _accounts: &[AccountName],
    ) -> Result<Vec<(AccountName, String)>, JournalError> {
        Ok(Vec::new())
    }

    async fn tidy(&self) -> Result<usize, JournalError> {
        Ok(0)
    }
}
