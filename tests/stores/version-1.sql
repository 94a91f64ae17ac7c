-- A store of schema version 1 as the bench of that time made it, cut down to two of its runs.
BEGIN TRANSACTION;
CREATE TABLE findings (
	run INTEGER NOT NULL, 
	scenario INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	component VARCHAR NOT NULL, 
	summary VARCHAR NOT NULL, 
	window INTEGER, 
	event INTEGER, 
	step INTEGER, 
	field VARCHAR NOT NULL, 
	expected VARCHAR, 
	observed VARCHAR, 
	why VARCHAR NOT NULL, 
	witness VARCHAR NOT NULL, 
	PRIMARY KEY (run, scenario, position), 
	FOREIGN KEY(run, scenario) REFERENCES scenarios (run, position) ON DELETE CASCADE
);
INSERT INTO "findings" VALUES(40,4,0,'handler','top-level entry is 0x0000000001056063 (phys 0x1056000, P RW A D), the model has 0x0000000000856063 (phys 0x856000, P RW A D), in step 0 (read of 8 bytes at 0xffff880010603048)',23,1,0,'pgd','0x856063','0x1056063','took 0, 1 of the pool, mapped 1024 MiB at 0x0 (early_make_pgtable, seed-2012)','{"record": "0x1ea"}');
INSERT INTO "findings" VALUES(40,4,1,'handler','top-level entry is 0x0000000001056063 (phys 0x1056000, P RW A D), the model has 0x0000000002056063 (phys 0x2056000, P RW A D), in step 0 (read of 8 bytes at 0xffff880010603048)',24,1,0,'pgd','0x2056063','0x1056063','took 0, 1 of the pool, mapped 1024 MiB at 0x0 (early_make_pgtable, seed-2012)','{"record": "0x20f"}');
CREATE TABLE runs (
	id INTEGER NOT NULL, 
	started VARCHAR NOT NULL, 
	machine VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	signature VARCHAR NOT NULL, 
	image VARCHAR NOT NULL, 
	image_sha256 VARCHAR NOT NULL, 
	"virtual" BOOLEAN NOT NULL, 
	verdict VARCHAR NOT NULL, 
	seconds FLOAT NOT NULL, 
	capture VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "runs" VALUES(1,'2026-11-24T19:00:29.338988+00:00','broadwell','06-3d-04','0x000306d4','early-pf/seed-2012','892044251ab38bccd3dddfad66bbafa080a56f7d1f2f5611ae8e63a075a4e6bb',1,'PASS',1.66,'results/captures/2026-11-24/190029-broadwell-seed-2012-c17e');
INSERT INTO "runs" VALUES(40,'2026-11-24T19:00:54.679096+00:00','broadwell','06-3d-04','0x000306d4','early-pf/seed-2012+hidden-bug','892044251ab38bccd3dddfad66bbafa080a56f7d1f2f5611ae8e63a075a4e6bb',1,'FAIL',0.35,'results/captures/2026-11-24/190054-broadwell-seed-2012-50a3');
CREATE TABLE scenarios (
	run INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	scenario VARCHAR NOT NULL, 
	verdict VARCHAR NOT NULL, 
	windows INTEGER NOT NULL, 
	predicted INTEGER NOT NULL, 
	replayed INTEGER NOT NULL, 
	resets INTEGER NOT NULL, 
	digests INTEGER NOT NULL, 
	reason VARCHAR NOT NULL, 
	PRIMARY KEY (run, position), 
	FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE
);
INSERT INTO "scenarios" VALUES(1,0,'capacity-borders-small','PASS',12,116,0,196,12,'');
INSERT INTO "scenarios" VALUES(1,1,'capacity-borders','SKIP',0,0,0,0,0,'needs RAM up to 514 GiB, the machine''s ends at 9 GiB');
INSERT INTO "scenarios" VALUES(1,2,'dead-tables','PASS',1,17,0,85,0,'');
INSERT INTO "scenarios" VALUES(1,3,'dump','PASS',1,5,0,1,2,'');
INSERT INTO "scenarios" VALUES(1,4,'fetch-without-nx','SKIP',0,0,0,0,0,'needs a processor without NX');
INSERT INTO "scenarios" VALUES(1,5,'final-tables','PASS',6,30,0,0,12,'');
INSERT INTO "scenarios" VALUES(1,6,'moves','PASS',4,31,0,85,15,'');
INSERT INTO "scenarios" VALUES(1,7,'no-phys-base','PASS',1,16,0,63,0,'');
INSERT INTO "scenarios" VALUES(1,8,'non-canonical-fixup','PASS',1,5,0,0,1,'');
INSERT INTO "scenarios" VALUES(1,9,'non-canonical','PASS',3,6,0,0,0,'');
INSERT INTO "scenarios" VALUES(1,10,'nx-as-available','PASS',1,4,0,1,1,'');
INSERT INTO "scenarios" VALUES(1,11,'nx-fetch','PASS',4,68,0,178,0,'');
INSERT INTO "scenarios" VALUES(1,12,'nx-on-all','SKIP',0,0,0,0,0,'needs a processor without NX');
INSERT INTO "scenarios" VALUES(1,13,'ping-pong','PASS',5,80,0,730,9,'');
INSERT INTO "scenarios" VALUES(1,14,'pud-wrap-mended','SKIP',0,0,0,0,0,'needs RAM up to 513 GiB, the machine''s ends at 9 GiB');
INSERT INTO "scenarios" VALUES(1,15,'pud-wrap','SKIP',0,0,0,0,0,'needs RAM up to 513 GiB, the machine''s ends at 9 GiB');
INSERT INTO "scenarios" VALUES(1,16,'random-1','PASS',3,40,0,12,12,'');
INSERT INTO "scenarios" VALUES(1,17,'random-2','PASS',2,34,0,6,6,'');
INSERT INTO "scenarios" VALUES(1,18,'random-3','PASS',2,30,0,3,6,'');
INSERT INTO "scenarios" VALUES(1,19,'random-4','PASS',2,12,0,2,6,'');
INSERT INTO "scenarios" VALUES(1,20,'recursion-fixup','PASS',1,7,0,0,1,'');
INSERT INTO "scenarios" VALUES(1,21,'recursion','PASS',2,10,0,0,2,'');
INSERT INTO "scenarios" VALUES(1,22,'rejected-fixup','PASS',2,18,0,0,4,'');
INSERT INTO "scenarios" VALUES(1,23,'rejected','PASS',10,20,0,0,0,'');
INSERT INTO "scenarios" VALUES(1,24,'relocated-high','PASS',2,6,0,0,4,'');
INSERT INTO "scenarios" VALUES(1,25,'relocated','PASS',6,27,0,3,12,'');
INSERT INTO "scenarios" VALUES(1,26,'repeated','PASS',2,4,0,0,4,'');
INSERT INTO "scenarios" VALUES(1,27,'reserved-bits','PASS',8,136,0,220,0,'');
INSERT INTO "scenarios" VALUES(1,28,'straddle-1gib','PASS',5,45,0,260,12,'');
INSERT INTO "scenarios" VALUES(1,29,'straddle-2mib','PASS',2,4,0,0,4,'');
INSERT INTO "scenarios" VALUES(1,30,'straddle-512gib','SKIP',0,0,0,0,0,'needs RAM up to 513 GiB, the machine''s ends at 9 GiB');
INSERT INTO "scenarios" VALUES(1,31,'sweep-1gib-small','PASS',7,104,0,22,14,'');
INSERT INTO "scenarios" VALUES(1,32,'sweep-1gib','SKIP',0,0,0,0,0,'needs RAM up to 69 GiB, the machine''s ends at 9 GiB');
INSERT INTO "scenarios" VALUES(1,33,'sweep-512gib-small','SKIP',0,0,0,0,0,'needs RAM up to 514 GiB, the machine''s ends at 9 GiB');
INSERT INTO "scenarios" VALUES(1,34,'sweep-512gib','SKIP',0,0,0,0,0,'needs RAM up to 17 TiB, the machine''s ends at 9 GiB');
INSERT INTO "scenarios" VALUES(40,0,'final-tables','PASS',6,30,0,0,12,'');
INSERT INTO "scenarios" VALUES(40,1,'ping-pong','PASS',5,80,0,730,9,'');
INSERT INTO "scenarios" VALUES(40,2,'recursion','PASS',2,10,0,0,2,'');
INSERT INTO "scenarios" VALUES(40,3,'rejected','PASS',10,20,0,0,0,'');
INSERT INTO "scenarios" VALUES(40,4,'relocated','FAIL',6,6,0,0,0,'top-level entry is 0x0000000001056063 (phys 0x1056000, P RW A D), the model has 0x0000000000856063 (phys 0x856000, P RW A D), in step 0 (read of 8 bytes at 0xffff880010603048)');
INSERT INTO "scenarios" VALUES(40,5,'repeated','PASS',2,4,0,0,4,'');
INSERT INTO "scenarios" VALUES(40,6,'straddle-1gib','PASS',5,45,0,260,12,'');
INSERT INTO "scenarios" VALUES(40,7,'sweep-1gib-small','PASS',7,104,0,22,14,'');
CREATE TABLE schema (
	version INTEGER NOT NULL
);
INSERT INTO "schema" VALUES(1);
CREATE INDEX ix_runs_machine ON runs (machine);
CREATE INDEX ix_runs_model ON runs (model);
COMMIT;
