BEGIN TRANSACTION;
CREATE TABLE feedback (
	id VARCHAR(64) NOT NULL, 
	created FLOAT NOT NULL, 
	request_id VARCHAR(64) NOT NULL, 
	model_hash VARCHAR(64) NOT NULL, 
	messages JSON NOT NULL, 
	tools JSON, 
	rating INTEGER NOT NULL CHECK (rating IN (-1, 1)), 
	correction TEXT, 
	reason TEXT, 
	user VARCHAR(200) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "feedback" VALUES('fb-0',1.0,'r0','ab','[{"role": "user", "content": "\uc5b8\uc81c?"}, {"role": "assistant", "content": "\uc544\ud649 \uc2dc\uc694."}]','null',1,NULL,NULL,'');
CREATE TABLE requests (
	request_id VARCHAR(64) NOT NULL, 
	created FLOAT NOT NULL, 
	model_hash VARCHAR(64) NOT NULL, 
	messages JSON NOT NULL, 
	tools JSON, 
	answer JSON NOT NULL, 
	PRIMARY KEY (request_id)
);
INSERT INTO "requests" VALUES('r0',1.79529929564253449441e+09,'ab','[{"role": "user", "content": "\uc5b8\uc81c?"}]','null','[{"role": "assistant", "content": "\uc544\ud649 \uc2dc\uc694."}]');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE INDEX ix_requests_created ON requests (created);
CREATE INDEX ix_feedback_request_id ON feedback (request_id);
COMMIT;
