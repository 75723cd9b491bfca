CREATE TABLE customers (name text NOT NULL);
INSERT INTO customers VALUES ('Ada'), ('Grace');
