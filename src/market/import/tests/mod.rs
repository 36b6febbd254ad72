//! Each layout from small files, wrong input, and imports that are broken off.

mod fixture;
mod layouts;
mod oracle;
mod resume;
mod wrong;
